//! Layers from hell, and what good ones look like. Needs root: layers have owners and devices.

use std::os::unix::fs::{MetadataExt, PermissionsExt};

use ::tar::{EntryType, Header};

use super::*;

/// An archive in the making. Names are written as they are given.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn entry(mut self, path: &str, kind: EntryType, link: &str, mode: u32, data: &[u8]) -> Archive {
        let mut header = Header::new_ustar();
        let ustar = header.as_ustar_mut().unwrap();
        ustar.name[..path.len()].copy_from_slice(path.as_bytes());
        ustar.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        header.set_device_major(0).unwrap();
        header.set_device_minor(0).unwrap();
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &str) -> Archive {
        self.entry(path, EntryType::Regular, "", 0o644, data.as_bytes())
    }

    fn dir(self, path: &str) -> Archive {
        self.entry(path, EntryType::Directory, "", 0o755, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Archive {
        self.entry(path, EntryType::Symlink, target, 0o777, b"")
    }

    fn hardlink(self, path: &str, target: &str) -> Archive {
        self.entry(path, EntryType::Link, target, 0o644, b"")
    }

    fn pax(self, key: &str, value: &str) -> Archive {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        let record = format!("{length} {key}={value}\n");
        self.entry("pax", EntryType::XHeader, "", 0, record.as_bytes())
    }
}

/// A place with a file outside of the root that must stay as it is.
struct Scene {
    directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Scene {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("outside/dir")).unwrap();
        std::fs::write(directory.path().join("outside/file"), "precious").unwrap();
        std::fs::set_permissions(
            directory.path().join("outside/file"),
            std::fs::Permissions::from_mode(0o600),
        )
        .unwrap();
        std::fs::create_dir(directory.path().join("fs")).unwrap();
        Scene { directory }
    }

    fn fs(&self) -> PathBuf {
        self.directory.path().join("fs")
    }

    fn unpack(&self, archive: &Archive) -> Result<u64, UnpackError> {
        self.unpack_on(archive, &[])
    }

    fn unpack_on(&self, archive: &Archive, lower: &[PathBuf]) -> Result<u64, UnpackError> {
        let outcome = unpack(archive.0.as_slice(), &self.fs(), lower, &mut Budget::new(&Limits::default()));
        self.check_outside();
        outcome
    }

    /// Nothing outside has changed.
    fn check_outside(&self) {
        let outside = self.directory.path().join("outside");
        let file = outside.join("file");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        let meta = std::fs::metadata(&file).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.nlink(), meta.uid()), (0o600, 1, 0));
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 2);
        assert_eq!(std::fs::read_dir(outside.join("dir")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(self.directory.path()).unwrap().count(), 2);
    }

    /// The path of the outside, absolute and without the leading slash.
    fn outside(&self) -> String {
        self.directory.path().join("outside").display().to_string()
    }

    fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.fs().join(path)).unwrap()
    }

    fn is_whiteout(&self, path: &str) -> bool {
        root::look(rustix::fs::CWD, self.fs().join(path).as_os_str().as_encoded_bytes())
            .unwrap()
            .is_some_and(|stat| root::is_whiteout(&stat))
    }

    fn is_opaque(&self, path: &str) -> bool {
        let mut value = [0; 8];
        let path = self.fs().join(path);
        matches!(rustix::fs::lgetxattr(path, "trusted.overlay.opaque", &mut value), Ok(1)) && value[0] == b'y'
    }
}

#[test]
fn names_that_lead_out_are_refused() {
    for path in
        ["../outside/file", "a/../../outside/file", "/../outside/file", "..", "a/..", "./../outside/file"]
    {
        let scene = Scene::new();
        for archive in [
            Archive::default().file(path, "gone"),
            Archive::default().dir(path),
            Archive::default().symlink(path, "x"),
            Archive::default().file("x", "").hardlink(path, "x"),
            Archive::default().pax("path", path).file("harmless", "gone"),
        ] {
            let error = scene.unpack(&archive).unwrap_err();
            assert!(matches!(error, UnpackError::Refused { .. }), "{path}: {error:?}");
        }
    }
}

#[test]
fn an_absolute_name_is_below_the_root() {
    let scene = Scene::new();
    let path = format!("{}/file", scene.outside());
    scene.unpack(&Archive::default().file(&path, "inside")).unwrap();
    assert_eq!(scene.read(path.trim_start_matches('/')), "inside");
}

#[test]
fn symbolic_links_end_inside() {
    for target in ["OUTSIDE", "../outside", "../../../../../../../../OUTSIDE", "/proc/self/root/OUTSIDE", "/"]
    {
        let scene = Scene::new();
        let target = target.replace("OUTSIDE", scene.outside().trim_start_matches('/'));
        let target = if target == "/" { target } else { target.replace("//", "/") };
        let base = Archive::default().symlink("link", &target);
        // Through the link: inside of the root, or an error; never outside.
        for archive in [
            Archive(base.0.clone()).file("link/file", "gone"),
            Archive(base.0.clone()).dir("link/dir/new"),
            Archive(base.0.clone()).file("link/dir/new", "gone"),
            Archive(base.0.clone()).file("link/.wh.file", ""),
            Archive(base.0.clone()).file("link/.wh..wh..opq", ""),
            Archive(base.0.clone()).file("x", "").hardlink("link/hard", "x"),
        ] {
            let _ = scene.unpack(&archive);
        }
    }
    // The absolute link by itself is kept as it is: it means something in the container.
    let scene = Scene::new();
    scene.unpack(&Archive::default().symlink("etc", "/outside")).unwrap();
    assert_eq!(std::fs::read_link(scene.fs().join("etc")).unwrap(), Path::new("/outside"));
}

#[test]
fn a_link_that_is_followed_inside_is_followed() {
    let scene = Scene::new();
    let archive = Archive::default().dir("usr/lib/").symlink("lib", "/usr/lib").file("lib/file", "merged");
    scene.unpack(&archive).unwrap();
    assert_eq!(scene.read("usr/lib/file"), "merged");
}

#[test]
fn the_last_part_of_a_name_is_never_followed() {
    for kind in [EntryType::Regular, EntryType::Directory, EntryType::Fifo, EntryType::Symlink] {
        let scene = Scene::new();
        let file = format!("{}/file", scene.outside());
        // First a link to the outside; then something with the same name, whose mode and owner would hit its target.
        let archive = Archive::default().symlink("x", &file).entry("x", kind, "y", 0o777, b"");
        scene.unpack(&archive).unwrap();
        let meta = std::fs::symlink_metadata(scene.fs().join("x")).unwrap();
        assert_eq!(meta.is_symlink(), kind == EntryType::Symlink);
        // And a directory over a link to a directory.
        let archive = Archive::default().symlink("d", &scene.outside()).dir("d").file("d/file", "inside");
        scene.unpack(&archive).unwrap();
        assert_eq!(scene.read("d/file"), "inside");
    }
}

#[test]
fn hard_links_stay_inside() {
    let scene = Scene::new();
    let file = format!("{}/file", scene.outside());
    for target in [file.as_str(), "../outside/file", "missing", "/proc/self/root/etc/passwd", "", "dir"] {
        let archive = Archive::default().dir("dir").hardlink("x", target);
        let error = scene.unpack(&archive).unwrap_err();
        assert!(matches!(error, UnpackError::Refused { .. }), "{target}: {error:?}");
    }
    // Through a symbolic link, and to one.
    let archive = Archive::default().symlink("link", &scene.outside()).hardlink("x", "link/file");
    assert!(scene.unpack(&archive).is_err());
    let archive = Archive::default().symlink("link2", &file).hardlink("y", "link2").entry(
        "y",
        EntryType::Regular,
        "",
        0o777,
        b"new",
    );
    scene.unpack(&archive).unwrap();
    assert_eq!(scene.read("y"), "new");
    let archive = Archive::default().file("a", "same").hardlink("b", "a").hardlink("a", "a");
    scene.unpack(&archive).unwrap();
    assert_eq!(scene.read("a"), "same");
    assert_eq!(std::fs::metadata(scene.fs().join("a")).unwrap().nlink(), 2);
}

#[test]
fn attributes_of_overlayfs_are_not_the_images_to_set() {
    let scene = Scene::new();
    let archive = Archive::default()
        .pax("SCHILY.xattr.trusted.overlay.redirect", "/../outside")
        .dir("a")
        .pax("SCHILY.xattr.trusted.overlay.opaque", "y")
        .dir("b")
        .pax("SCHILY.xattr.user.overlay.metacopy", "y")
        .dir("c")
        .pax("SCHILY.xattr.user.mine", "kept")
        .dir("d");
    scene.unpack(&archive).unwrap();
    for (path, names) in [("a", ""), ("b", ""), ("c", ""), ("d", "user.mine\0")] {
        let mut list = vec![0; 1000];
        let length = rustix::fs::llistxattr(scene.fs().join(path), &mut list).unwrap();
        assert_eq!(&list[..length], names.as_bytes(), "{path}");
    }
}

#[test]
fn whiteouts() {
    let scene = Scene::new();
    let archive = Archive::default()
        .dir("a")
        .file("a/.wh.gone", "")
        .file("a/.wh..wh.plnk", "aufs")
        .dir("b")
        .file("b/.wh..wh..opq", "")
        .file("b/kept", "kept")
        // A whiteout of what this very layer has says something about the layers below only.
        .file("c", "new")
        .file(".wh.c", "")
        .file(".wh.d", "")
        .file("d", "new")
        .dir("e")
        .file("e/f", "new")
        .file(".wh.e", "")
        .file(".wh.g", "")
        .dir("g")
        .file("g/h", "new")
        .file(".wh.i", "")
        .file("i/j", "without its directory");
    scene.unpack(&archive).unwrap();
    assert!(scene.is_whiteout("a/gone"));
    assert_eq!(std::fs::read_dir(scene.fs().join("a")).unwrap().count(), 1);
    assert!(scene.is_opaque("b") && !scene.is_opaque("a"));
    assert_eq!(scene.read("b/kept"), "kept");
    assert_eq!(scene.read("c") + &scene.read("d"), "newnew");
    for replaced in ["e", "g", "i"] {
        assert!(scene.is_opaque(replaced), "{replaced}");
    }
    assert_eq!(scene.read("e/f") + &scene.read("g/h"), "newnew");
    for nothing in [".wh.", "a/.wh..", "a/.wh..."] {
        let error = scene.unpack(&Archive::default().file(nothing, "")).unwrap_err();
        assert!(
            matches!(error, UnpackError::Refused { problem: "a whiteout of nothing", .. }),
            "{nothing} {error:?}"
        );
    }
}

/// What overlayfs shows of three layers is what the specification says.
#[test]
fn overlayfs_understands_the_layers() {
    let directory = tempfile::tempdir().unwrap();
    let mut lower: Vec<PathBuf> = Vec::new();
    for (i, archive) in [
        Archive::default()
            .file("a/1", "1")
            .file("a/2", "2")
            .file("b/1", "1")
            .file("c/1", "1")
            .file("d", "file"),
        Archive::default()
            .file("a/.wh.1", "")
            .file("b/.wh..wh..opq", "")
            .file("b/2", "2")
            .file(".wh.c", "")
            .file("d", "two"),
        Archive::default().file("c/2", "2").file(".wh.d", "").file("d/in", "now a directory"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = directory.path().join(i.to_string());
        std::fs::create_dir(&path).unwrap();
        unpack(archive.0.as_slice(), &path, &lower, &mut Budget::new(&Limits::default())).unwrap();
        lower.insert(0, path);
    }
    let merged = directory.path().join("merged");
    std::fs::create_dir(&merged).unwrap();
    let joined = lower.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    // In a mount namespace that ends with the command.
    let output = std::process::Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec"])
        .arg(format!(
            "mount -t overlay overlay -o lowerdir={joined} {0}; cd {0}; find . -type f | sort | xargs grep -H ''",
            merged.display()
        ))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let expected = "./a/2:2\n./b/2:2\n./c/2:2\n./d/in:now a directory\n";
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
}

#[test]
fn a_directory_that_is_not_mentioned_looks_as_below() {
    let below = Scene::new();
    let archive = Archive::default()
        .entry("./", EntryType::Directory, "", 0o700, b"")
        .entry("tmp", EntryType::Directory, "", 0o1777, b"")
        .pax("uid", "77")
        .entry("home", EntryType::Directory, "", 0o750, b"");
    below.unpack(&archive).unwrap();
    let above = Scene::new();
    let archive = Archive::default().file("tmp/x", "x").file("home/.config/y", "y");
    above.unpack_on(&archive, &[below.fs()]).unwrap();
    let looks = |path: &str| {
        let meta = std::fs::metadata(above.fs().join(path)).unwrap();
        (meta.mode() & 0o7777, meta.uid())
    };
    assert_eq!(looks("tmp"), (0o1777, 0));
    assert_eq!(looks("home"), (0o750, 77));
    assert_eq!(looks("home/.config"), (0o755, 0));
    assert_eq!(looks(""), (0o700, 0));
}

#[test]
fn modes_owners_and_times() {
    let scene = Scene::new();
    let archive = Archive::default()
        .dir("d")
        .pax("uid", "1234567")
        .entry("d/su", EntryType::Regular, "", 0o6755, b"x")
        .entry("d/sticky", EntryType::Directory, "", 0o3777, b"")
        .pax("mtime", "1234567890.123456789")
        .symlink("d/link", "su")
        .pax("gid", "42")
        .entry("d/pipe", EntryType::Fifo, "", 0o622, b"")
        .entry("d/closed", EntryType::Directory, "", 0, b"")
        .file("d/closed/file", "root may");
    scene.unpack(&archive).unwrap();
    let look = |path: &str| {
        let meta = std::fs::symlink_metadata(scene.fs().join(path)).unwrap();
        (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime(), meta.mtime_nsec())
    };
    assert_eq!(look("d/su"), (0o6755, 1_234_567, 0, 1_000_000_000, 0));
    assert_eq!(look("d/sticky"), (0o3777, 0, 0, 1_000_000_000, 0));
    assert_eq!(look("d/link"), (0o777, 0, 0, 1_234_567_890, 123_456_789));
    assert_eq!(look("d/pipe"), (0o622, 0, 42, 1_000_000_000, 0));
    assert_eq!(look("d/closed"), (0, 0, 0, 1_000_000_000, 0));
    assert_eq!(look("d"), (0o755, 0, 0, 1_000_000_000, 0), "also after files were added");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let scene = Scene::new();
    let archive = Archive::default()
        .file("a", "file")
        .dir("a")
        .file("a/b/c/d", "deep")
        .file("a/b/link", "")
        .file("a", "file again")
        .file("x", "one")
        .file("x", "two");
    scene.unpack(&archive).unwrap();
    assert_eq!(scene.read("a"), "file again");
    assert_eq!(scene.read("x"), "two");
    // Removing a tree does not follow links in it.
    let archive = Archive::default().dir("t").symlink("t/out", &scene.outside()).file("t", "flat");
    scene.unpack(&archive).unwrap();
    assert_eq!(scene.read("t"), "flat");
}

#[test]
fn a_file_is_no_directory() {
    let scene = Scene::new();
    let error = scene.unpack(&Archive::default().file("a", "").file("a/b", "")).unwrap_err();
    assert!(matches!(error, UnpackError::Refused { .. }), "{error:?}");
    let error = scene.unpack(&Archive::default().file(".", "")).unwrap_err();
    assert!(matches!(error, UnpackError::Refused { .. }), "{error:?}");
}

#[test]
fn very_deep_trees() {
    // Replaced by a file at the end, so that all of it is removed again.
    let deep = "d/".repeat(400);
    let scene = Scene::new();
    let archive = Archive::default().pax("path", &deep).dir("x").file("d", "flat");
    scene.unpack(&archive).unwrap();
    assert_eq!(scene.read("d"), "flat");
    // Through links it would get deeper than any name is long.
    let mut archive = Archive::default();
    for i in 0..10 {
        archive = archive.pax("path", &format!("l{i}/{}", "d/".repeat(400))).dir("x");
        archive = archive
            .pax("linkpath", &format!("l{i}/{}", "d/".repeat(400)))
            .symlink(&format!("l{}", i + 1), "x");
    }
    let error = scene.unpack(&archive).unwrap_err();
    assert!(matches!(error, UnpackError::Io { .. }), "{error:?}");
    let too_deep = "d/".repeat(3000);
    let error = scene.unpack(&Archive::default().pax("path", &too_deep).dir("x")).unwrap_err();
    assert!(matches!(error, UnpackError::Tar(TarError::TooLong { .. })), "{error:?}");
    let long = "n".repeat(300);
    let error = scene.unpack(&Archive::default().pax("path", &long).file("x", "")).unwrap_err();
    assert!(matches!(error, UnpackError::Io { .. }), "{error:?}");
}

#[test]
fn there_are_limits() {
    let scene = Scene::new();
    let limits = Limits { entries: 3, unpacked_bytes: 10, ..Limits::default() };
    let unpack =
        |archive: &Archive| unpack(archive.0.as_slice(), &scene.fs(), &[], &mut Budget::new(&limits));
    let files =
        |names: &[&str]| names.iter().fold(Archive::default(), |archive, name| archive.file(name, "1"));
    unpack(&files(&["a", "b", "c"])).unwrap();
    let error = unpack(&files(&["a", "b", "c", "d"])).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { what: "files", limit: 3 }), "{error:?}");
    let error = unpack(&Archive::default().file("a", "0123456").file("b", "0123456")).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { what: "bytes", limit: 10 }), "{error:?}");
    // A size that the archive only claims.
    let error = unpack(&Archive::default().pax("size", "4000000000000000000").file("a", "")).unwrap_err();
    assert!(matches!(error, UnpackError::TooMuch { .. }), "{error:?}");
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(300))]
    /// Any sequence of entries over a few names, links in all directions: nothing outside is touched.
    #[test]
    fn nothing_leaves(entries in proptest::collection::vec((0_usize..8, 0_usize..10, 0_usize..10), 1..25)) {
        let scene = Scene::new();
        let outside = scene.outside();
        let names = [
            "a".to_owned(), "a/b".to_owned(), "a/b/file".to_owned(), "b".to_owned(), "b/dir/x".to_owned(),
            ".wh.a".to_owned(), "a/.wh..wh..opq".to_owned(), outside.clone(), format!("{outside}/file"), "../outside/file".to_owned(),
        ];
        let targets = [
            outside.clone(), "..".to_owned(), "../outside".to_owned(), format!("{outside}/file"), "/".to_owned(), "a".to_owned(),
            "b".to_owned(), ".".to_owned(), "../../../outside/dir".to_owned(), "a/b".to_owned(),
        ];
        let mut archive = Archive::default();
        for (kind, name, target) in entries {
            let (name, target) = (&names[name], &targets[target]);
            if name.len() > 99 || target.len() > 99 {
                continue;
            }
            archive = match kind {
                0 | 1 => archive.file(name, "data"),
                2 => archive.dir(name),
                3 | 4 => archive.symlink(name, target),
                5 => archive.hardlink(name, target),
                6 => archive.entry(name, EntryType::Char, "", 0o666, b""),
                _ => archive.entry(name, EntryType::Directory, "", 0o777, b""),
            };
            // One after the other, so that a refused entry does not end the game.
            let _ = scene.unpack(&archive);
            archive = Archive::default();
        }
    }
}
