//! Pulling: from Debian's docker-registry, into which skopeo pushes, and from a registry that misbehaves.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;
#[path = "common/registry.rs"]
mod registry;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{chain, config, describe, rootfs, run};
use image::{Auth, Digest, Image, ImageStore, Progress, PullError, PullOptions, Reference};
use registry::{Answer, FakeRegistry, RealRegistry};

/// bcrypt of "secret".
const HTPASSWD: &str = "me:$2b$05$km2ld9qblouqsv6lMmj9IeKLkn/vMOzx.4pwyucUwuEgYPz6X7bne\n";

/// An image as an archive and as a layout, to push or to serve.
struct Source {
    directory: tempfile::TempDir,
    image: Image,
}

impl Source {
    fn new() -> Source {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("rootfs");
        rootfs(&root);
        let store = ImageStore::open(directory.path().join("source")).unwrap();
        let name = Reference::parse("source").unwrap();
        let image = store.build_rootfs(&root, &name, config()).unwrap();
        store.export("source", directory.path().join("source.tar")).unwrap();
        let layout = directory.path().join("layout");
        std::fs::create_dir(&layout).unwrap();
        let tar = directory.path().join("source.tar");
        run("tar", &["-C", layout.to_str().unwrap(), "-xf", tar.to_str().unwrap()]);
        Source { directory, image }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn layout(&self) -> PathBuf {
        self.path().join("layout")
    }

    fn push(&self, to: &str, options: &[&str]) {
        let from = format!("oci-archive:{}", self.path().join("source.tar").display());
        let to = format!("docker://{to}");
        run(
            "skopeo",
            &[&["--insecure-policy", "copy", "--dest-tls-verify=false"], options, &[&from, &to]].concat(),
        );
    }

    /// A new store.
    fn store(&self, name: &str) -> Arc<ImageStore> {
        ImageStore::open(self.path().join(name)).unwrap()
    }

    /// The largest blob: the layer.
    fn layer(&self) -> (Digest, Vec<u8>) {
        let blobs = std::fs::read_dir(self.layout().join("blobs/sha256")).unwrap();
        let blobs = blobs.map(|blob| std::fs::read(blob.unwrap().path()).unwrap());
        let layer = blobs.max_by_key(Vec::len).unwrap();
        (Digest::of(&layer), layer)
    }

    fn check(&self, image: &Image) {
        assert_eq!(describe(image.layers.last().unwrap()), describe(&self.image.layers[0]));
    }
}

async fn pull(store: &Arc<ImageStore>, name: &str, options: &PullOptions) -> Result<Image, PullError> {
    store.pull(&Reference::parse(name).unwrap(), options, &Progress::default()).await
}

async fn simply(store: &Arc<ImageStore>, name: &str) -> Result<Image, PullError> {
    pull(store, name, &PullOptions::default()).await
}

fn nothing_is_left(store: &ImageStore, path: &Path) {
    assert!(store.list().unwrap().is_empty());
    for part in ["layers", "work"] {
        let left: Vec<_> =
            std::fs::read_dir(path.join(part)).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.iter().all(|path| path.extension().is_some_and(|end| end == "lock")), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_real_registry() {
    let source = Source::new();
    let registry = RealRegistry::start(source.path(), "", "");
    let name = |rest: &str| format!("{}/{rest}", registry.address);
    source.push(&name("team/gzip:1"), &[]);
    source.push(
        &name("zstd"),
        &["--format", "oci", "--dest-compress-format", "zstd", "--dest-compress-level", "3"],
    );
    source.push(&name("docker"), &["--format", "v2s2"]);
    let store = source.store("pulled");
    for rest in ["team/gzip:1", "zstd:latest", "docker:latest"] {
        let progress = Progress::default();
        let reference = Reference::parse(&name(rest)).unwrap();
        let image = store.pull(&reference, &PullOptions::default(), &progress).await.unwrap();
        source.check(&image);
        assert!(image.names.contains(&name(rest)), "{:?}", image.names);
        let now = progress.now();
        assert_eq!((now.layers, now.total_layers, now.bytes), (1, 1, now.total_bytes));
        // By digest, into another store.
        let by_digest =
            image.repo_digests.iter().find(|known| known.starts_with(&name(rest.split(':').next().unwrap())));
        let by_digest = by_digest.unwrap().clone();
        let other = source.store(&rest.replace(['/', ':'], "-"));
        let image = simply(&other, &by_digest).await.unwrap();
        assert_eq!(image.names, std::slice::from_ref(&by_digest));
        assert_eq!(other.get(&by_digest).unwrap().unwrap().id, image.id);
        // A name with the tag and the digest is the image with the digest.
        let both = format!("{}@{}", name(rest), by_digest.split('@').nth(1).unwrap());
        assert_eq!(other.get(&both).unwrap().unwrap().id, image.id);
    }
    let error = simply(&store, &name("team/gzip:2")).await.unwrap_err();
    assert!(matches!(&error, PullError::NotFound { .. }), "{error:?}");
    let shown = error.to_string();
    for part in
        [&name("team/gzip:2"), &registry.address, "HTTP 404: manifest unknown", "check the name and the tag"]
    {
        assert!(shown.contains(part), "{shown} / {part}");
    }
    let wrong = format!("{}@{}", name("team/gzip"), Digest::of(b"another"));
    assert!(matches!(simply(&store, &wrong).await, Err(PullError::NotFound { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_several_platforms() {
    let source = Source::new();
    let registry = RealRegistry::start(source.path(), "", "");
    // The same layer for this machine, and an image of another architecture beside it.
    let layout = source.layout();
    let read = |digest: &str| {
        let hex = digest.strip_prefix("sha256:").unwrap();
        serde_json::from_slice::<serde_json::Value>(
            &std::fs::read(layout.join("blobs/sha256").join(hex)).unwrap(),
        )
        .unwrap()
    };
    let write = |value: &serde_json::Value| {
        let bytes = value.to_string();
        let digest = Digest::of(bytes.as_bytes());
        std::fs::write(layout.join("blobs/sha256").join(digest.hex()), &bytes).unwrap();
        (digest.to_string(), bytes.len())
    };
    let own = source.image.manifest.to_string();
    let mut manifest = read(&own);
    let mut foreign_config = read(manifest["config"]["digest"].as_str().unwrap());
    let here = foreign_config["architecture"].as_str().unwrap().to_owned();
    foreign_config["architecture"] = "s390x".into();
    let own_size = manifest.to_string().len();
    let (digest, size) = write(&foreign_config);
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = size.into();
    let (foreign, foreign_size) = write(&manifest);
    let media = "application/vnd.oci.image.manifest.v1+json";
    let entry = |digest: &str, size: usize, architecture: &str| serde_json::json!({"mediaType": media, "digest": digest, "size": size, "platform": {"os": "linux", "architecture": architecture}});
    let own_size_on_disk =
        std::fs::metadata(layout.join("blobs/sha256").join(source.image.manifest.hex())).unwrap().len();
    assert_eq!(own_size as u64, own_size_on_disk);
    for (tag, entries) in [
        ("both", vec![entry(&foreign, foreign_size, "s390x"), entry(&own, own_size, &here)]),
        ("foreign", vec![entry(&foreign, foreign_size, "s390x")]),
    ] {
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries});
        let (digest, size) = write(&index);
        let top = serde_json::json!({"schemaVersion": 2, "manifests": [
            {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": size, "annotations": {"org.opencontainers.image.ref.name": tag}}
        ]});
        std::fs::write(layout.join("index.json"), top.to_string()).unwrap();
        let (from, to) =
            (format!("oci:{}:{tag}", layout.display()), format!("docker://{}/multi:{tag}", registry.address));
        run("skopeo", &["--insecure-policy", "copy", "--all", "--dest-tls-verify=false", &from, &to]);
        let store = source.store(tag);
        let name = format!("{}/multi:{tag}", registry.address);
        match simply(&store, &name).await {
            Ok(image) => {
                assert_eq!(tag, "both");
                source.check(&image);
                assert_eq!(image.manifest, source.image.manifest);
                assert_eq!(
                    image.repo_digests,
                    [format!("{}/multi@{digest}", registry.address)],
                    "of the index"
                );
                assert!(store.get(&image.repo_digests[0]).unwrap().is_some());
            }
            Err(error) => {
                assert_eq!(tag, "foreign");
                assert!(error.to_string().contains("it has: linux/s390x"), "{error}");
            }
        }
        // The layout itself says the same.
        let imported = source.store(&format!("{tag}-import")).import(&layout, None);
        assert_eq!(imported.is_ok(), tag == "both");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_password_and_its_own_certificate() {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let source = Source::new();
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let file = |name: &str, text: &str| {
        let path = source.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let http = format!(
        "  tls: {{certificate: {}, key: {}}}",
        file("registry.pem", &certificate.pem()),
        file("registry.key", &key.serialize_pem())
    );
    let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}", file("htpasswd", HTPASSWD));
    let registry = RealRegistry::start(source.path(), &http, &auth);
    let name = format!("{}/private", registry.address);
    source.push(&name, &["--dest-creds", "me:secret"]);
    let auth = |password: &str| Auth::Basic { user: "me".to_owned(), password: password.to_owned() };
    let options = |auth: Auth| PullOptions {
        auth,
        certificate_authorities: vec![ca.pem().into_bytes()],
        ..PullOptions::default()
    };
    let store = source.store("pulled");
    let error = pull(&store, &name, &PullOptions { auth: auth("secret"), ..PullOptions::default() })
        .await
        .unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains("certificate authority"), "{error}");
    for wrong in [Auth::Anonymous, auth("guess")] {
        let error = pull(&store, &name, &options(wrong)).await.unwrap_err();
        assert!(matches!(error, PullError::Refused { status: 401, .. }), "{error:?}");
        assert!(error.to_string().contains("imagePullSecrets"), "{error}");
        assert!(!format!("{error:?}").contains("guess"));
    }
    source.check(&pull(&store, &name, &options(auth("secret"))).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens() {
    let source = Source::new();
    let given = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&given);
    let registry = FakeRegistry::start(&source.layout(), move |asked, good| {
        if let Some(query) = asked.path.strip_prefix("/token?") {
            assert!(
                query.contains("scope=repository%3Aa%2Fb%3Apull") && query.contains("service=fake"),
                "{query}"
            );
            let expected = "Basic bWU6c2VjcmV0";
            let who = if asked.header("authorization") == expected { "me" } else { "nobody" };
            let n = count.fetch_add(1, Ordering::Relaxed);
            return Answer::new(200, format!(r#"{{"token":"{who}-{n}"}}"#));
        }
        // Every token is good for two questions.
        let token =
            asked.header("authorization").strip_prefix("Bearer me-").and_then(|n| n.parse::<usize>().ok());
        let newest = count.load(Ordering::Relaxed).checked_sub(1);
        if token.is_none() || token != newest || asked.path.contains("blobs") && token == Some(0) {
            let realm = format!("http://{}/token", asked.header("host"));
            let challenge = format!(r#"Bearer realm="{realm}",service="fake",scope="repository:a/b:pull""#);
            let body = r#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#;
            return Answer::new(401, body).header("www-authenticate", challenge);
        }
        good.unwrap_or_else(|| Answer::new(404, ""))
    });
    let name = format!("{}/a/b", registry.address);
    let options = PullOptions {
        auth: Auth::Basic { user: "me".to_owned(), password: "secret".to_owned() },
        ..PullOptions::default()
    };
    let store = source.store("pulled");
    source.check(&pull(&store, &name, &options).await.unwrap());
    assert_eq!(given.load(Ordering::Relaxed), 2, "one at the start, one when it was no longer good");
    let error = simply(&source.store("anonymous"), &name).await.unwrap_err();
    assert!(matches!(error, PullError::Refused { status: 401, .. }), "{error:?}");
    assert!(error.to_string().contains("HTTP 401: authentication required"), "{error}");
}

/// The link breaks again and again: each time it goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_link_is_mended() {
    let source = Source::new();
    let (digest, layer) = source.layer();
    let piece = layer.len() / 12 + 1;
    let registry = FakeRegistry::start(&source.layout(), move |asked, good| {
        let good = good.unwrap_or_else(|| Answer::new(404, ""));
        if asked.path.ends_with(&digest.to_string()) { good.cut(piece) } else { good }
    });
    let name = format!("{}/a", registry.address);
    source.check(&simply(&source.store("pulled"), &name).await.unwrap());
    let starts: Vec<usize> = registry
        .asked()
        .iter()
        .filter(|asked| asked.path.ends_with(&digest.to_string()))
        .map(|asked| asked.from().unwrap_or(0))
        .collect();
    assert!(starts.len() >= 12 && starts.is_sorted() && starts[1] > 0, "{starts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_begins_again() {
    let source = Source::new();
    let (digest, layer) = source.layer();
    let times = AtomicUsize::new(0);
    let registry = FakeRegistry::start(&source.layout(), move |asked, good| {
        if asked.path.ends_with(&digest.to_string()) {
            let whole = Answer::new(200, layer.clone());
            let cut = layer.len() / 2;
            return if times.fetch_add(1, Ordering::Relaxed) < 2 { whole.cut(cut) } else { whole };
        }
        good.unwrap_or_else(|| Answer::new(404, ""))
    });
    let progress = Progress::default();
    let store = source.store("pulled");
    let reference = Reference::parse(&format!("{}/a", registry.address)).unwrap();
    source.check(&store.pull(&reference, &PullOptions::default(), &progress).await.unwrap());
    assert_eq!(progress.now().bytes, progress.now().total_bytes, "progress went back when it had to");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_bad_registry_gets() {
    let source = Source::new();
    let (digest, layer) = source.layer();
    let on_layer = move |asked: &registry::Asked| asked.path.ends_with(&digest.to_string());
    let otherwise = |good: Option<Answer>| good.unwrap_or_else(|| Answer::new(404, ""));
    let mut flipped = layer.clone();
    flipped[1000] ^= 1;
    let longer = [layer.as_slice(), b"more"].concat();
    let shorter = layer[..layer.len() - 1].to_vec();
    type Rule = Box<dyn Fn(&registry::Asked, Option<Answer>) -> Answer + Send + Sync>;
    let layer_is = |body: Vec<u8>| -> Rule {
        Box::new(move |asked, good| {
            if on_layer(asked) && asked.from().is_none() {
                Answer::new(200, body.clone())
            } else {
                otherwise(good)
            }
        })
    };
    let manifest_is =
        |status: u16, body: &'static [u8]| -> Rule {
            Box::new(move |asked, good| {
                if asked.path.contains("/manifests/") { Answer::new(status, body) } else { otherwise(good) }
            })
        };
    let cases: Vec<(&str, Rule, &str)> = vec![
        ("a changed layer", layer_is(flipped), "is damaged: expected sha256:"),
        ("a longer layer", layer_is(longer), "larger than announced"),
        (
            "a shorter layer",
            Box::new({
                let shorter = shorter.clone();
                move |asked, good| {
                    if on_layer(asked) {
                        match asked.from() {
                            None => Answer::new(200, shorter.clone()),
                            Some(_) => Answer::new(416, ""),
                        }
                    } else {
                        otherwise(good)
                    }
                }
            }),
            "bytes, but it sends",
        ),
        (
            "no layer",
            Box::new(move |asked, good| if on_layer(asked) { Answer::new(404, "") } else { otherwise(good) }),
            "HTTP 404",
        ),
        ("a web page", manifest_is(200, b"<html>hello</html>"), "cannot be understood"),
        ("an empty answer", manifest_is(200, b""), "cannot be understood"),
        ("schema 1", manifest_is(200, br#"{"schemaVersion":1}"#), "schema 1"),
        ("a huge manifest", Box::new(|_, _| Answer::new(200, vec![b' '; 5 << 20])), "larger than"),
        (
            "forbidden",
            manifest_is(403, br#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#),
            "HTTP 403: not for you",
        ),
        ("a teapot", manifest_is(418, b"short and stout"), "HTTP 418: short and stout"),
        (
            "a challenge without sense",
            Box::new(|_, _| Answer::new(401, "").header("www-authenticate", "Negotiate")),
            "HTTP 401",
        ),
        (
            "a token server without TLS elsewhere",
            Box::new(|_, _| {
                Answer::new(401, "").header("www-authenticate", "Bearer realm=\"ftp://example.com/token\"")
            }),
            "without TLS",
        ),
        (
            "a redirect loop",
            Box::new(|asked, _| Answer::new(307, "").header("location", asked.path.clone())),
            "cannot be reached",
        ),
    ];
    for (i, (case, rule, expected)) in cases.into_iter().enumerate() {
        let registry = FakeRegistry::start(&source.layout(), rule);
        let path = source.path().join(format!("store-{i}"));
        let store = ImageStore::open(&path).unwrap();
        let name = format!("{}/a:1", registry.address);
        let error = simply(&store, &name).await.unwrap_err();
        assert!(chain(&error).contains(expected), "{case}: {}", chain(&error));
        nothing_is_left(&store, &path);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_busy_gets_time() {
    let source = Source::new();
    let count = AtomicUsize::new(0);
    let registry =
        FakeRegistry::start(&source.layout(), move |_, good| match count.fetch_add(1, Ordering::Relaxed) {
            0 => Answer::new(429, "").header("retry-after", "0"),
            1 => Answer::new(503, ""),
            3 => Answer::new(500, ""),
            _ => good.unwrap_or_else(|| Answer::new(404, "")),
        });
    source.check(&simply(&source.store("pulled"), &format!("{}/a", registry.address)).await.unwrap());
    let never =
        FakeRegistry::start(&source.layout(), |_, _| Answer::new(429, "").header("retry-after", "3600"));
    let error = simply(&source.store("never"), &format!("{}/a", never.address)).await.unwrap_err();
    assert!(matches!(error, PullError::TooManyRequests { .. }) && error.may_pass(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there() {
    let source = Source::new();
    let store = source.store("pulled");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = simply(&store, &format!("127.0.0.1:{port}/a")).await.unwrap_err();
    assert!(matches!(error, PullError::Unreachable { .. }) && error.may_pass(), "{error:?}");
    assert!(chain(&error).to_lowercase().contains("refused"), "{}", chain(&error));
    let error = simply(&store, "registry.invalid/a").await.unwrap_err();
    assert!(error.to_string().contains("registry.invalid"), "{error}");
}

/// A pull that is dropped in the middle leaves nothing, and the next one works.
#[tokio::test(flavor = "multi_thread")]
async fn a_pull_may_be_dropped() {
    let source = Source::new();
    let (digest, _) = source.layer();
    let slow = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_slow = Arc::clone(&slow);
    let registry = FakeRegistry::start(&source.layout(), move |asked, good| {
        let good = good.unwrap_or_else(|| Answer::new(404, ""));
        if asked.path.ends_with(&digest.to_string()) && is_slow.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_secs(2));
        }
        good
    });
    let path = source.path().join("pulled");
    let store = ImageStore::open(&path).unwrap();
    let name = format!("{}/a", registry.address);
    let dropped = tokio::time::timeout(std::time::Duration::from_millis(300), simply(&store, &name)).await;
    assert!(dropped.is_err());
    slow.store(false, Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    nothing_is_left(&store, &path);
    source.check(&simply(&store, &name).await.unwrap());
}

/// Two pulls of the same image fetch each layer once.
#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_of_one_image() {
    let source = Source::new();
    let (digest, _) = source.layer();
    let registry = FakeRegistry::start(&source.layout(), |_, good| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        good.unwrap_or_else(|| Answer::new(404, ""))
    });
    let store = source.store("pulled");
    let (a, b) = (format!("{}/a", registry.address), format!("{}/b", registry.address));
    let (one, two) = tokio::join!(simply(&store, &a), simply(&store, &b));
    assert_eq!(one.unwrap().id, two.unwrap().id);
    let fetched = registry.asked().iter().filter(|asked| asked.path.ends_with(&digest.to_string())).count();
    assert_eq!(fetched, 1);
    assert_eq!(store.list().unwrap()[0].names, [format!("{a}:latest"), format!("{b}:latest")]);
}
