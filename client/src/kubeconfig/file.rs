//! The file format.

use std::path::Path;

use serde::Deserialize;
use serde::de::Deserializer;

use super::KubeconfigError;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct File {
    #[serde(deserialize_with = "null_is_default")]
    pub(super) clusters: Vec<NamedCluster>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) users: Vec<NamedUser>,
    #[serde(deserialize_with = "null_is_default")]
    pub(super) contexts: Vec<NamedContext>,
    pub(super) current_context: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct NamedCluster {
    pub(super) name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) cluster: Cluster,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct NamedUser {
    pub(super) name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) user: AuthInfo,
}

#[derive(Debug, Clone, Deserialize)]
pub(super) struct NamedContext {
    pub(super) name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) context: Context,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct Cluster {
    pub(super) server: Option<String>,
    pub(super) certificate_authority: Option<String>,
    pub(super) certificate_authority_data: Option<String>,
    pub(super) insecure_skip_tls_verify: Option<bool>,
    pub(super) tls_server_name: Option<String>,
    pub(super) proxy_url: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub(super) struct AuthInfo {
    pub(super) client_certificate: Option<String>,
    pub(super) client_certificate_data: Option<String>,
    pub(super) client_key: Option<String>,
    pub(super) client_key_data: Option<String>,
    pub(super) token: Option<String>,
    #[serde(rename = "tokenFile")]
    pub(super) token_file: Option<String>,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    #[serde(rename = "as")]
    pub(super) impersonate: Option<String>,
    pub(super) as_groups: Option<Vec<String>>,
    pub(super) exec: Option<serde_yaml::Value>,
    pub(super) auth_provider: Option<serde_yaml::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Context {
    pub(super) cluster: Option<String>,
    pub(super) user: Option<String>,
    pub(super) namespace: Option<String>,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

impl File {
    pub(super) fn decode(text: &str, path: &Path) -> Result<Self, KubeconfigError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let decoder = serde_yaml::Deserializer::from_str(text);
        serde_path_to_error::deserialize(decoder).map_err(|error| KubeconfigError::Decode {
            path: path.to_owned(),
            field: error.path().to_string(),
            source: error.into_inner(),
        })
    }
}
