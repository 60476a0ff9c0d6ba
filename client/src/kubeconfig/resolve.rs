//! From names to what a connection needs.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::file::AuthInfo;
use super::{Entry, Kubeconfig, KubeconfigError};

/// Who we are, beside a client certificate.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Credentials {
    /// Nobody, or the holder of the client certificate.
    #[default]
    None,
    /// A bearer token.
    Token(String),
    /// A file with a bearer token; it is read again now and then, because such tokens expire.
    TokenFile(PathBuf),
    /// User name and password.
    Basic(String, String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token",
            Self::TokenFile(_) => "TokenFile",
            Self::Basic(..) => "Basic",
        })
    }
}

/// Everything that a connection needs; file contents are read, base64 is decoded.
#[derive(Clone, Default)]
pub struct Resolved {
    /// The kubeconfig file that holds the context, for errors.
    pub path: PathBuf,
    /// URL of the server.
    pub server: String,
    /// PEM of the authorities to trust; None trusts those of the system.
    pub certificate_authority: Option<Vec<u8>>,
    /// Trust whoever answers.
    pub insecure: bool,
    /// The name that the server's certificate must carry, if it is not the URL's.
    pub tls_server_name: Option<String>,
    /// An HTTP proxy on the way.
    pub proxy: Option<String>,
    /// PEM of the client certificate and of its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The files that certificate and key were read from. They are read again when they have been replaced.
    pub identity_files: Option<(PathBuf, PathBuf)>,
    /// Who we are otherwise.
    pub credentials: Credentials,
    /// Act as this user.
    pub impersonate: Option<String>,
    /// Act as a member of these groups.
    pub impersonate_groups: Vec<String>,
    /// The context's namespace.
    pub namespace: Option<String>,
}

impl std::fmt::Debug for Resolved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resolved")
            .field("server", &self.server)
            .field("credentials", &self.credentials)
            .field("client_certificate", &self.identity.is_some())
            .finish_non_exhaustive()
    }
}

impl Kubeconfig {
    /// Looks a context up (None: the current one) and reads what it refers to.
    pub fn resolve(&self, context: Option<&str>) -> Result<Resolved, KubeconfigError> {
        let first = self.files.first().cloned().unwrap_or_default();
        let missing = |path: &Path, field: String, problem: String| KubeconfigError::Field {
            path: path.to_owned(),
            field,
            problem,
        };
        let name = context.or(self.current_context.as_deref()).ok_or_else(|| {
            missing(&first, "current-context".to_owned(), "no context is chosen".to_owned())
        })?;
        let context = self.contexts.get(name).ok_or_else(|| {
            missing(&first, "contexts".to_owned(), format!("context {name:?} does not exist"))
        })?;

        let cluster_name = context.value.cluster.as_deref().unwrap_or_default();
        let cluster = self.clusters.get(cluster_name).ok_or_else(|| {
            missing(
                &context.path,
                format!("{}.cluster", context.field),
                format!("cluster {cluster_name:?} does not exist"),
            )
        })?;
        let server = cluster.value.server.clone().filter(|server| !server.is_empty()).ok_or_else(|| {
            missing(&cluster.path, format!("{}.server", cluster.field), "is missing".to_owned())
        })?;

        let mut resolved = Resolved {
            path: context.path.clone(),
            server,
            insecure: cluster.value.insecure_skip_tls_verify.unwrap_or(false),
            tls_server_name: cluster.value.tls_server_name.clone(),
            proxy: cluster.value.proxy_url.clone(),
            namespace: context.value.namespace.clone().filter(|namespace| !namespace.is_empty()),
            certificate_authority: read(
                cluster,
                "certificate-authority",
                cluster.value.certificate_authority_data.as_deref(),
                cluster.value.certificate_authority.as_deref(),
            )?,
            ..Resolved::default()
        };

        let user_name = context.value.user.as_deref().unwrap_or_default();
        if !user_name.is_empty() {
            let user = self.users.get(user_name).ok_or_else(|| {
                missing(
                    &context.path,
                    format!("{}.user", context.field),
                    format!("user {user_name:?} does not exist"),
                )
            })?;
            resolve_user(user, &mut resolved)?;
        }
        Ok(resolved)
    }
}

fn resolve_user(user: &Entry<AuthInfo>, resolved: &mut Resolved) -> Result<(), KubeconfigError> {
    let info = &user.value;
    for (field, value) in [("exec", &info.exec), ("auth-provider", &info.auth_provider)] {
        if value.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(KubeconfigError::Field {
                path: user.path.clone(),
                field: format!("{}.{field}", user.field),
                problem: "credential plugins are not supported; use a token or a client certificate"
                    .to_owned(),
            });
        }
    }
    let certificate = read(
        user,
        "client-certificate",
        info.client_certificate_data.as_deref(),
        info.client_certificate.as_deref(),
    )?;
    let key = read(user, "client-key", info.client_key_data.as_deref(), info.client_key.as_deref())?;
    resolved.identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (present, _) => {
            let field = if present.is_some() { "client-key" } else { "client-certificate" };
            return Err(KubeconfigError::Field {
                path: user.path.clone(),
                field: format!("{}.{field}", user.field),
                problem: "is missing: a client certificate and its key belong together".to_owned(),
            });
        }
    };
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    let inline = given(&info.client_certificate_data).or(given(&info.client_key_data)).is_some();
    resolved.identity_files = given(&info.client_certificate)
        .zip(given(&info.client_key))
        .filter(|_| !inline)
        .map(|(certificate, key)| (beside(&user.path, &certificate), beside(&user.path, &key)));
    resolved.credentials = match (given(&info.token), given(&info.token_file), given(&info.username)) {
        (Some(token), _, _) => Credentials::Token(token),
        (None, Some(file), _) => Credentials::TokenFile(beside(&user.path, &file)),
        (None, None, Some(name)) => Credentials::Basic(name, info.password.clone().unwrap_or_default()),
        (None, None, None) => Credentials::None,
    };
    resolved.impersonate = given(&info.impersonate);
    resolved.impersonate_groups = info.as_groups.clone().unwrap_or_default();
    Ok(())
}

/// Inline data wins over a file, as in kubectl.
fn read<T>(
    entry: &Entry<T>,
    field: &str,
    data: Option<&str>,
    file: Option<&str>,
) -> Result<Option<Vec<u8>>, KubeconfigError> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let compact: String = data.split_ascii_whitespace().collect();
        return STANDARD.decode(compact).map(Some).map_err(|error| KubeconfigError::Field {
            path: entry.path.clone(),
            field: format!("{}.{field}-data", entry.field),
            problem: format!("is not base64: {error}"),
        });
    }
    let Some(file) = file.filter(|file| !file.is_empty()) else { return Ok(None) };
    let file = beside(&entry.path, file);
    std::fs::read(&file).map(Some).map_err(|source| KubeconfigError::ReadReferenced {
        path: entry.path.clone(),
        field: format!("{}.{field}", entry.field),
        file,
        source,
    })
}

fn beside(config: &Path, file: &str) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(file)
}
