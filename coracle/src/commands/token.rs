//! `coracle token`: what other machines need to join. A token is a Secret in kube-system, as upstream's bootstrap tokens are, so
//! kubectl and kubeadm see the same ones.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver::pki;
use clap::{Args, Subcommand};
use client::{Client, DeleteParams, ListParams};
use manifests::k8s_openapi::ByteString;
use manifests::k8s_openapi::api::core::v1::Secret;
use manifests::k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use manifests::k8s_openapi::jiff::{SignedDuration, Timestamp};

use super::output::align;
use super::{Session, print, say, session, wait};
use crate::flags::ApiArgs;
use crate::join::token::{JoinToken, is_id, is_secret};

const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "bootstrap-token-";
const TYPE: &str = "bootstrap.kubernetes.io/token";
const USAGE: &str = "usage-bootstrap-";

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token and print it: `coracle agent --server URL --token TOKEN` joins with it
    Create(CreateArgs),
    /// Show the tokens that there are
    List(ListArgs),
    /// Remove tokens; nodes that have joined by them stay
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// A token of one's own, of the form ID.SECRET (six and sixteen small letters and digits) [default: a new one]
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
    /// How long it is good; 0 means for ever
    #[arg(long, value_name = "TIME", value_parser = wait::duration, default_value = "24h")]
    ttl: Duration,
    /// For whom or what it is
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// More groups of its bearer, each below system:bootstrappers:
    #[arg(long, value_name = "GROUP,…", value_delimiter = ',')]
    groups: Vec<String>,
    /// What it may be used for
    #[arg(long, value_name = "USAGE,…", value_delimiter = ',', default_value = "signing,authentication")]
    usages: Vec<String>,
    /// Print the whole command for the other machine
    #[arg(long)]
    print_join_command: bool,
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    /// Ids, or whole tokens
    #[arg(value_name = "TOKEN", required = true)]
    tokens: Vec<String>,
    #[command(flatten)]
    api: ApiArgs,
}

pub(crate) async fn run(args: TokenArgs) -> anyhow::Result<()> {
    match args.command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Delete(args) => delete(args).await,
    }
}

async fn create(args: CreateArgs) -> anyhow::Result<()> {
    let (id, secret) = match &args.token {
        None => {
            let random = random(22)?;
            (random[..6].to_owned(), random[6..].to_owned())
        }
        Some(token) => match token.split_once('.') {
            Some((id, secret)) if is_id(id) && is_secret(secret) => (id.to_owned(), secret.to_owned()),
            _ => bail!("{token:?} is not of the form ID.SECRET: six and sixteen small letters and digits"),
        },
    };
    if let Some(wrong) =
        args.usages.iter().find(|usage| !["signing", "authentication"].contains(&usage.as_str()))
    {
        bail!("{wrong:?} is no usage of a token: signing, authentication");
    }
    if let Some(wrong) = args.groups.iter().find(|group| !group.starts_with("system:bootstrappers:")) {
        bail!("{wrong:?} is no group of a token: it begins with system:bootstrappers:");
    }
    let server = session::resolve(&args.api)?;
    let authority = server
        .certificate_authority
        .as_deref()
        .and_then(|pem| pki::fingerprint(std::str::from_utf8(pem).ok()?));
    let fingerprint =
        authority.context("the kubeconfig names no certificate authority to know the server by")?;
    let session = Session::open(&args.api)?;
    let new =
        New { usages: &args.usages, groups: &args.groups, description: &args.description, life: args.ttl };
    let secret_object = object(&new, &id, &secret, Timestamp::now())?;
    session
        .client
        .namespaced::<Secret>(NAMESPACE)
        .create(&secret_object)
        .await
        .context("storing the token")?;
    let token = JoinToken { fingerprint, bearer: format!("{id}.{secret}") };
    if args.print_join_command {
        say(format_args!("coracle agent --server {} --token {token}", server.server))
    } else {
        say(token)
    }
}

/// Makes a token for machines that join soon.
pub(crate) async fn mint(
    client: &Client,
    fingerprint: &str,
    description: &str,
    life: Duration,
) -> anyhow::Result<JoinToken> {
    let random = random(22)?;
    let (id, secret) = random.split_at(6);
    let usages = ["signing", "authentication"].map(str::to_owned);
    let new = New { usages: &usages, groups: &[], description, life };
    let object = object(&new, id, secret, Timestamp::now())?;
    client.namespaced::<Secret>(NAMESPACE).create(&object).await.context("storing the token")?;
    Ok(JoinToken { fingerprint: fingerprint.to_owned(), bearer: format!("{id}.{secret}") })
}

/// What a token is to be.
struct New<'a> {
    usages: &'a [String],
    groups: &'a [String],
    description: &'a str,
    /// None at all is for ever.
    life: Duration,
}

/// The token as it is stored.
fn object(new: &New<'_>, id: &str, secret: &str, now: Timestamp) -> anyhow::Result<Secret> {
    let mut data = BTreeMap::from([
        ("token-id".to_owned(), id.to_owned()),
        ("token-secret".to_owned(), secret.to_owned()),
    ]);
    if !new.description.is_empty() {
        data.insert("description".to_owned(), new.description.to_owned());
    }
    if !new.groups.is_empty() {
        data.insert("auth-extra-groups".to_owned(), new.groups.join(","));
    }
    for usage in new.usages {
        data.insert(format!("{USAGE}{usage}"), "true".to_owned());
    }
    if !new.life.is_zero() {
        let ends = now.checked_add(SignedDuration::try_from(new.life)?).context("--ttl is too long")?;
        data.insert("expiration".to_owned(), Timestamp::from_second(ends.as_second())?.to_string());
    }
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(format!("{PREFIX}{id}")),
            namespace: Some(NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        string_data: Some(data),
        ..Secret::default()
    })
}

async fn list(args: ListArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let params = ListParams { field_selector: Some(format!("type={TYPE}")), ..ListParams::default() };
    let secrets = session.client.namespaced::<Secret>(NAMESPACE).list_all(&params).await?;
    let heading = ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(secrets.items.iter().map(|secret| row(secret, Timestamp::now())));
    print(&align(&rows))
}

fn row(secret: &Secret, now: Timestamp) -> Vec<String> {
    let none = || "<none>".to_owned();
    let field = |name: &str| {
        let bytes: &ByteString = secret.data.as_ref()?.get(name)?;
        String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
    };
    let expires = field("expiration");
    let left = match expires.as_deref().map(str::parse::<Timestamp>) {
        None => "<forever>".to_owned(),
        Some(Ok(end)) if end > now => left(end.duration_since(now)),
        Some(Ok(_)) => "<expired>".to_owned(),
        Some(Err(_)) => "<invalid>".to_owned(),
    };
    let usages: Vec<&str> = secret
        .data
        .iter()
        .flatten()
        .filter(|(_, value)| value.0 == b"true")
        .filter_map(|(key, _)| key.strip_prefix(USAGE))
        .collect();
    let usages = if usages.is_empty() { none() } else { usages.join(",") };
    let token = field("token-id").zip(field("token-secret")).map(|(id, secret)| format!("{id}.{secret}"));
    vec![
        token.unwrap_or_else(none),
        left,
        expires.unwrap_or_else(|| "<never>".to_owned()),
        usages,
        field("description").unwrap_or_else(none),
        field("auth-extra-groups").unwrap_or_else(none),
    ]
}

/// A time that is left, in its largest unit.
fn left(time: SignedDuration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

async fn delete(args: DeleteArgs) -> anyhow::Result<()> {
    let session = Session::open(&args.api)?;
    let secrets = session.client.namespaced::<Secret>(NAMESPACE);
    for token in &args.tokens {
        let bearer = token.rsplit("::").next().unwrap_or(token);
        let id = bearer.split('.').next().unwrap_or(bearer);
        if !is_id(id) {
            bail!("{token:?} is neither a token nor the id of one");
        }
        let deleted = secrets.delete(&format!("{PREFIX}{id}"), &DeleteParams::default()).await;
        deleted.with_context(|| format!("removing token {id}"))?;
        say(format_args!("bootstrap token {id:?} deleted"))?;
    }
    Ok(())
}

/// Small letters and digits that nobody can guess.
fn random(length: usize) -> anyhow::Result<String> {
    const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut source = std::fs::File::open("/dev/urandom").context("opening /dev/urandom")?;
    let mut text = String::with_capacity(length);
    let mut bytes = [0; 64];
    while text.len() < length {
        source.read_exact(&mut bytes).context("reading /dev/urandom")?;
        // Bytes above the last whole multiple would make some letters likelier than others.
        let fair =
            bytes.iter().filter(|byte| **byte < 252).map(|byte| char::from(LETTERS[usize::from(byte % 36)]));
        text.extend(fair.take(length - text.len()));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_by_the_book() {
        let token = random(22).unwrap();
        assert!(is_id(&token[..6]) && is_secret(&token[6..]), "{token}");
        assert_ne!(random(22).unwrap(), token);
    }

    #[test]
    fn a_row_tells_how_long_a_token_is_good() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let check = |expiration: &str, expected: &str| {
            let data =
                [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("expiration", expiration)];
            let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())));
            let secret = Secret { data: Some(data.into()), ..Secret::default() };
            assert_eq!(row(&secret, now)[1], expected, "{expiration}");
        };
        check("", "<forever>");
        check("2026-01-02T00:00:00Z", "24h");
        check("2026-01-01T00:01:00Z", "60s");
        check("2026-01-11T00:00:00Z", "10d");
        check("2025-12-31T00:00:00Z", "<expired>");
        check("soon", "<invalid>");
    }
}
