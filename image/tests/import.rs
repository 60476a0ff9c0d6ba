//! Building, importing, exporting, removing: with real archives, and with skopeo as the other side.

#![expect(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use common::{chain, config, describe, rootfs, run};
use image::{Image, ImageStore, ImportError, Limits, Reference};

fn name(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

fn store(directory: &Path) -> Arc<ImageStore> {
    ImageStore::open(directory.join("images")).unwrap()
}

fn built(store: &ImageStore, directory: &Path, text: &str) -> Image {
    let source = directory.join("rootfs");
    if !source.exists() {
        rootfs(&source);
    }
    store.build_rootfs(source, &name(text), config()).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_directory_becomes_an_image_and_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let image = built(&store, directory.path(), "built:1");
    assert_eq!(image.names, ["docker.io/library/built:1"]);
    assert_eq!(image.layers.len(), 1);
    assert_eq!(image.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/bin/su"]);
    let expected = describe(&directory.path().join("rootfs"));
    assert!(expected["bin/large"].contains("security.capability"));
    assert_eq!(describe(&image.layers[0]), expected);
    // The same again is the same image.
    let again = built(&store, directory.path(), "built:2");
    assert_eq!(again.id, image.id);
    assert_eq!(again.names, ["docker.io/library/built:1", "docker.io/library/built:2"]);
    assert_eq!(image.size, 300_000 + 10 + 1 + 8);
}

#[test]
fn an_archive_of_a_root_file_system() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let image = built(&store, directory.path(), "built:1");
    let root = directory.path().join("rootfs");
    for (file, options) in [("a.tar", "-cf"), ("a.tar.gz", "-czf"), ("a.tar.zst", "--zstd -cf")] {
        let file = directory.path().join(file);
        let mut arguments = vec!["--xattrs", "--xattrs-include=*", "--numeric-owner", "-C", text(&root)];
        arguments.extend(options.split(' '));
        arguments.extend([text(&file), "."]);
        run("tar", &arguments);
        let other = store.build_rootfs(&file, &name("from-tar"), config()).unwrap();
        assert_eq!(describe(&other.layers[0]), describe(&image.layers[0]), "{}", file.display());
    }
    let nonsense = directory.path().join("nonsense");
    std::fs::write(&nonsense, vec![b'?'; 5000]).unwrap();
    let error = store.build_rootfs(&nonsense, &name("x"), config()).unwrap_err();
    assert!(chain(&error).contains("is this a tar archive?"), "{}", chain(&error));
}

#[test]
fn names_and_ids() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let image = built(&store, directory.path(), "localhost:5000/a/b:1");
    let id = image.id.to_string();
    for good in ["localhost:5000/a/b:1", &id, &id[7..], &id[7..19], &image.manifest.to_string()] {
        assert_eq!(store.get(good).unwrap().unwrap().id, image.id, "{good}");
    }
    for wrong in ["localhost:5000/a/b", "a/b:1", &id[7..18], "sha256:0000000000000000", "", "../x"] {
        assert!(store.get(wrong).unwrap().is_none(), "{wrong}");
    }
    let tagged = store.tag("localhost:5000/a/b:1", &name("c")).unwrap().unwrap();
    assert_eq!(tagged.names, ["docker.io/library/c:latest", "localhost:5000/a/b:1"]);
    let removed = store.remove("c").unwrap().unwrap();
    assert_eq!((removed.names, removed.still_named), (vec!["docker.io/library/c:latest".to_owned()], true));
    assert!(store.remove("c").unwrap().is_none());
    store.tag(&id, &name("d")).unwrap().unwrap();
    let removed = store.remove(&id[7..19]).unwrap().unwrap();
    assert_eq!((removed.names.len(), removed.still_named), (2, false));
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_name_moves_to_the_newer_image() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let first = built(&store, directory.path(), "a");
    std::fs::write(directory.path().join("rootfs/new"), "new").unwrap();
    let second = built(&store, directory.path(), "a");
    assert_ne!(first.id, second.id);
    assert_eq!(store.get("a").unwrap().unwrap().id, second.id);
    assert_eq!(store.list().unwrap().len(), 1);
    // A container still runs from the first.
    let collected = store.collect(&HashSet::from([first.id])).unwrap().unwrap();
    assert_eq!((collected.layers, collected.blobs), (0, 2), "manifest and packed layer");
    assert!(first.layers[0].join("bin/su").exists());
    let collected = store.collect(&HashSet::new()).unwrap().unwrap();
    assert_eq!((collected.layers, collected.blobs), (1, 1), "configuration and unpacked layer");
    assert!(collected.bytes > 300_000);
    assert!(!first.layers[0].exists());
    assert!(second.layers[0].join("new").exists());
    store.remove("a").unwrap();
    store.collect(&HashSet::new()).unwrap().unwrap();
    for part in ["blobs/sha256", "layers", "work"] {
        let left = std::fs::read_dir(directory.path().join("images").join(part)).unwrap().count();
        assert_eq!(left, 0, "{part}");
    }
}

#[test]
fn export_and_import_are_opposites() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(directory.path());
    let image = built(&first, directory.path(), "r.io/a:1");
    let archive = directory.path().join("a.tar");
    first.export("r.io/a:1", &archive).unwrap();
    let second = ImageStore::open(directory.path().join("second")).unwrap();
    let imported = second.import(&archive, None).unwrap();
    assert_eq!(imported.len(), 1);
    assert_eq!((imported[0].id, imported[0].manifest), (image.id, image.manifest));
    assert_eq!(imported[0].names, ["r.io/a:1"]);
    assert_eq!(describe(&imported[0].layers[0]), describe(&image.layers[0]));
    let again = directory.path().join("b.tar");
    second.export("r.io/a:1", &again).unwrap();
    assert_eq!(std::fs::read(&archive).unwrap(), std::fs::read(&again).unwrap(), "byte for byte");
    // From a pipe, compressed, with another name.
    run("gzip", &[text(&again)]);
    let stream = std::fs::File::open(directory.path().join("b.tar.gz")).unwrap();
    let renamed = second.import_stream(stream, Some(&name("other:2"))).unwrap();
    assert_eq!(renamed[0].names, ["docker.io/library/other:2", "r.io/a:1"]);
    let error = first.export("nothing", directory.path().join("c.tar")).unwrap_err();
    assert!(error.to_string().contains("\"nothing\""), "{error}");
    assert!(!directory.path().join("c.tar").exists());
}

#[test]
fn what_skopeo_writes_and_reads() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(directory.path());
    let image = built(&first, directory.path(), "skopeo/test:1");
    let own = directory.path().join("own.tar");
    first.export("skopeo/test:1", &own).unwrap();
    let from = format!("oci-archive:{}", own.display());
    // Everything that skopeo makes of it comes back as the same root file system.
    for (to, file, expected) in [
        ("oci:", "layout:skopeo/test:1", "docker.io/skopeo/test:1"),
        ("oci-archive:", "layout.tar:r.io/x:2", "r.io/x:2"),
        ("docker-archive:", "saved.tar:skopeo/saved:3", "docker.io/skopeo/saved:3"),
    ] {
        let target = format!("{to}{}/{file}", directory.path().display());
        run("skopeo", &["--insecure-policy", "copy", &from, &target]);
        let path = directory.path().join(file.split(':').next().unwrap());
        let other = ImageStore::open(directory.path().join(format!("store-{}", expected.len()))).unwrap();
        let images = other.import(&path, None).unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].names, [expected], "{target}");
        assert_eq!(describe(&images[0].layers[0]), describe(&image.layers[0]), "{target}");
        let config = images[0].config.config().as_ref().unwrap();
        assert_eq!(config.working_dir().as_deref(), Some("/tmp"));
    }
    // And skopeo reads the store itself.
    let listed = format!("oci:{}:docker.io/skopeo/test:1", directory.path().join("images").display());
    let seen = run("skopeo", &["inspect", "--config", &listed]);
    assert!(seen.contains("/bin/su"), "{seen}");
}

#[test]
fn errors_say_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let error = store.import(directory.path().join("missing.tar"), None).unwrap_err();
    assert!(chain(&error).contains("missing.tar"), "{}", chain(&error));
    let empty = directory.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let error = store.import(&empty, None).unwrap_err();
    assert!(matches!(error, ImportError::NotAnImage), "{error:?}");
    let archive = directory.path().join("rootfs.tar");
    run("tar", &["-C", "/usr/share/common-licenses", "-cf", text(&archive), "."]);
    let error = store.import(&archive, None).unwrap_err();
    assert!(error.to_string().contains("build-rootfs"), "{error}");
    let error = ImageStore::open("/usr/share/common-licenses").unwrap_err();
    assert!(error.to_string().contains("no image store"), "{error}");
}

/// Change one byte of every part of an image, one after the other: each time it is refused, and nothing is left.
#[test]
fn corrupted_content_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(directory.path());
    built(&first, directory.path(), "a");
    let archive = directory.path().join("a.tar");
    first.export("a", &archive).unwrap();
    let layout = directory.path().join("layout");
    std::fs::create_dir(&layout).unwrap();
    run("tar", &["-C", text(&layout), "-xf", text(&archive)]);
    let blobs: Vec<_> =
        std::fs::read_dir(layout.join("blobs/sha256")).unwrap().map(|b| b.unwrap().path()).collect();
    assert_eq!(blobs.len(), 3);
    for (i, blob) in blobs.iter().enumerate() {
        let second = ImageStore::open(directory.path().join(format!("second-{i}"))).unwrap();
        let good = std::fs::read(blob).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(blob, &bad).unwrap();
        let error = second.import(&layout, None).unwrap_err();
        assert!(chain(&error).contains("is damaged: expected sha256:"), "{}", chain(&error));
        std::fs::write(blob, &good[..good.len() - 1]).unwrap();
        assert!(second.import(&layout, None).is_err());
        std::fs::write(blob, &good).unwrap();
        assert!(second.list().unwrap().is_empty());
        second.import(&layout, None).unwrap();
    }
    // A good image that is too large.
    let third =
        ImageStore::open_with(directory.path().join("third"), Limits { entries: 5, ..Limits::default() })
            .unwrap();
    let error = third.import(&layout, None).unwrap_err();
    assert!(chain(&error).contains("more than 5 files"), "{}", chain(&error));
    assert_eq!(std::fs::read_dir(directory.path().join("third/layers")).unwrap().count(), 0);
    let left: Vec<_> = std::fs::read_dir(directory.path().join("third/work")).unwrap().collect();
    assert!(left.iter().all(|entry| entry.as_ref().unwrap().path().extension().is_some()), "{left:?}");
}

/// Several processes and threads add, list, remove and collect in one store.
#[test]
fn many_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let first = store(directory.path());
    built(&first, directory.path(), "seed");
    let archive = directory.path().join("a.tar");
    first.export("seed", &archive).unwrap();
    first.remove("seed").unwrap();
    let path = directory.path().join("images");
    let threads: Vec<_> = (0..6)
        .map(|i| {
            let (path, archive) = (path.clone(), archive.clone());
            std::thread::spawn(move || {
                // Its own handle, as another process has it.
                let store = ImageStore::open(&path).unwrap();
                for round in 0..5 {
                    let own = name(&format!("image-{i}:{round}"));
                    let image = store.import(&archive, Some(&own)).unwrap().remove(0);
                    assert!(image.layers[0].join("bin/su").exists());
                    assert!(store.get(&own.to_string()).unwrap().is_some(), "seen at once");
                    store.list().unwrap();
                    if round % 2 == 0 {
                        assert!(store.remove(&own.to_string()).unwrap().is_some());
                    }
                    store.collect(&HashSet::new()).unwrap();
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let images = first.list().unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(images[0].names.len(), 12, "{:?}", images[0].names);
    assert!(images[0].layers[0].join("bin/su").exists());
}

/// Importers are killed at any moment; what is in the index afterwards is whole, and the rest is cleaned away.
#[test]
fn killed_importers_leave_nothing() {
    if let Some(path) = std::env::var_os("CORACLE_TEST_IMPORT") {
        let path = Path::new(&path);
        let store = ImageStore::open(path.join("images")).unwrap();
        for round in 0.. {
            store.import(path.join("a.tar"), Some(&name(&format!("x:{round}")))).unwrap();
            store.remove(&format!("x:{round}")).unwrap();
            store.collect(&HashSet::new()).unwrap();
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let seed = ImageStore::open(directory.path().join("seed")).unwrap();
    let source = directory.path().join("rootfs");
    rootfs(&source);
    let expected = describe(&source);
    seed.build_rootfs(source, &name("seed"), config()).unwrap();
    seed.export("seed", directory.path().join("a.tar")).unwrap();
    let mut found = 0;
    for kill in 0..40_u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed_importers_leave_nothing"])
            .env("CORACLE_TEST_IMPORT", directory.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(5 + kill * 13 % 60));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = ImageStore::open(directory.path().join("images")).unwrap();
        assert_eq!(std::fs::read_dir(directory.path().join("images/work")).unwrap().count(), 0);
        for image in store.list().unwrap() {
            assert_eq!(describe(&image.layers[0]), expected, "kill {kill}");
            let mut archive = Vec::new();
            store.export_to(&image.id.to_string(), &mut archive).unwrap();
            found += 1;
        }
        for layer in std::fs::read_dir(directory.path().join("images/layers")).unwrap() {
            assert_eq!(describe(&layer.unwrap().path().join("fs")), expected, "kill {kill}");
        }
    }
    println!("{found} of 40 kills left a whole image");
}

#[test]
fn a_docker_archive_with_links_and_several_images() {
    let directory = tempfile::tempdir().unwrap();
    let work = directory.path().join("saved");
    let layer = directory.path().join("layer");
    std::fs::create_dir_all(&layer).unwrap();
    std::fs::write(layer.join("file"), "content").unwrap();
    // As Docker wrote it before version 25: a directory per layer, the second one a link to the first.
    std::fs::create_dir_all(work.join("one")).unwrap();
    std::fs::create_dir_all(work.join("two")).unwrap();
    run("tar", &["-C", text(&layer), "-cf", text(&work.join("one/layer.tar")), "file"]);
    std::os::unix::fs::symlink("../one/layer.tar", work.join("two/layer.tar")).unwrap();
    let mut bytes = Vec::new();
    std::fs::File::open(work.join("one/layer.tar")).unwrap().read_to_end(&mut bytes).unwrap();
    let diff_id = image::Digest::of(&bytes).to_string();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    for (file, layers) in [("a.json", 1), ("b.json", 2)] {
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/file"], "Entrypoint": null, "Volumes": null},
            "rootfs": {"type": "layers", "diff_ids": vec![diff_id.clone(); layers]}, "history": null,
        });
        std::fs::write(work.join(file), config.to_string()).unwrap();
    }
    let manifest = serde_json::json!([
        {"Config": "a.json", "RepoTags": ["one:1", "one:latest"], "Layers": ["one/layer.tar"]},
        {"Config": "b.json", "RepoTags": null, "Layers": ["one/layer.tar", "two/layer.tar"]},
    ]);
    std::fs::write(work.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = directory.path().join("saved.tar");
    run("tar", &["-C", text(&work), "-cf", text(&archive), "."]);
    let store = store(directory.path());
    let error = store.import(&archive, Some(&name("x"))).unwrap_err();
    assert!(error.to_string().contains("2 images (one:1, without a name)"), "{error}");
    let images = store.import(&archive, None).unwrap();
    assert_eq!(images[0].names, ["docker.io/library/one:1", "docker.io/library/one:latest"]);
    assert_eq!((images[1].names.len(), images[1].layers.len()), (0, 2));
    assert!(images[1].layers.iter().all(|layer| layer.join("file").exists()));
    assert_eq!(store.get(&images[1].id.to_string()).unwrap().unwrap().id, images[1].id);
    // A name makes it one with a name, and not two.
    store.tag(&images[1].id.to_string(), &name("two")).unwrap();
    assert_eq!(store.list().unwrap().len(), 2);
}
