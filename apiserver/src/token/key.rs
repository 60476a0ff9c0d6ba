//! The key that tokens are signed with: ES256, made on the first start, kept beside the cluster's certificates.

use std::fmt;
use std::path::PathBuf;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::pki::{Pki, PkiError};

/// What stands before a P-256 point in a SubjectPublicKeyInfo.
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The key, and the name by which verifiers find it.
pub struct TokenKey {
    pair: EcdsaKeyPair,
    id: String,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeyError {
    /// The files of the cluster's certificates.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The file does not hold what it should.
    #[error("{} does not hold a P-256 key in PKCS #8", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
    },
}

impl TokenKey {
    /// The key of a cluster.
    pub fn open(pki: &Pki) -> Result<TokenKey, TokenKeyError> {
        let (path, pem) = pki.token_key()?;
        TokenKey::read(&pem).ok_or(TokenKeyError::Broken { path })
    }

    fn read(pem: &str) -> Option<TokenKey> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).ok()?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der()).ok()?;
        let id = URL_SAFE_NO_PAD.encode(
            Sha256::new().chain_update(SPKI_HEAD).chain_update(pair.public_key().as_ref()).finalize(),
        );
        Some(TokenKey { pair, id })
    }

    /// A key that lives as long as the process, for servers without a directory.
    pub(crate) fn ephemeral() -> Option<TokenKey> {
        TokenKey::read(&rcgen::KeyPair::generate().ok()?.serialize_pem())
    }

    /// A signed token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> Option<String> {
        let head = json!({"alg": "ES256", "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", encode(&head), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).ok()?;
        Some(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that this key has signed.
    pub(crate) fn verify(&self, token: &str) -> Option<Value> {
        let (text, signature) = token.rsplit_once('.')?;
        let (head, claims) = text.split_once('.')?;
        let read = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let head = read(head)?;
        // The algorithm is this key's, whatever the token would like it to be.
        if head["alg"] != "ES256" || head["kid"] != self.id.as_str() {
            return None;
        }
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref());
        key.verify(text.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
        read(claims)
    }

    /// The public key as a JSON Web Key Set.
    pub(crate) fn jwks(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.get(1..).unwrap_or_default().split_at_checked(32).unwrap_or_default();
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_is_believed() {
        let key = TokenKey::ephemeral().unwrap();
        let claims = json!({"sub": "a"});
        let token = key.sign(&claims).unwrap();
        assert_eq!(key.verify(&token), Some(claims));
        assert_eq!(TokenKey::ephemeral().unwrap().verify(&token), None);
        let parts: Vec<&str> = token.split('.').collect();
        let other = URL_SAFE_NO_PAD.encode(r#"{"sub":"b"}"#);
        let unsigned = URL_SAFE_NO_PAD.encode(format!(r#"{{"alg":"none","kid":"{}"}}"#, key.id));
        for forged in [
            format!("{}.{other}.{}", parts[0], parts[2]),
            format!("{unsigned}.{}.", parts[1]),
            format!("{unsigned}.{}.{}", parts[1], parts[2]),
            format!("{}.{}", parts[0], parts[1]),
            String::new(),
            "..".to_owned(),
            "é.é.é".to_owned(),
        ] {
            assert_eq!(key.verify(&forged), None, "{forged}");
        }
    }

    #[test]
    fn the_key_stays() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let pki = Pki::open(directory.path()).unwrap();
        let token = TokenKey::open(&pki).unwrap().sign(&json!({})).unwrap();
        let again = TokenKey::open(&Pki::open(directory.path()).unwrap()).unwrap();
        assert!(again.verify(&token).is_some());
        let mode = std::fs::metadata(directory.path().join("sa.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(directory.path().join("sa.key"), "no key").unwrap();
        assert!(matches!(TokenKey::open(&pki), Err(TokenKeyError::Broken { .. })));
    }
}
