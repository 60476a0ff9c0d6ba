//! Manifests named on the command line: files, folders, standard input.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use manifests::yaml::Document;
use serde_json::Value;

/// Which files.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FileArgs {
    /// File or folder with manifests (YAML or JSON), or - for standard input; may be repeated
    #[arg(long = "filename", short = 'f', value_name = "FILE")]
    pub(crate) filenames: Vec<PathBuf>,

    /// Look into the folders of a folder too
    #[arg(long, short = 'R')]
    pub(crate) recursive: bool,
}

/// One object of a file.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    /// Knows where in the file each field is.
    pub(crate) document: Document,
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) namespace: Option<String>,
    pub(crate) name: String,
    pub(crate) object: Value,
}

impl FileArgs {
    /// Reads everything, Lists unpacked, in the order of the files and of the documents in them.
    pub(crate) fn load(&self) -> anyhow::Result<Vec<Manifest>> {
        let mut manifests = Vec::new();
        for name in &self.filenames {
            if name == Path::new("-") {
                let mut text = String::new();
                std::io::stdin().lock().read_to_string(&mut text).context("reading standard input")?;
                documents(&text, "standard input", &mut manifests)?;
                continue;
            }
            for path in expand(name, self.recursive)? {
                let text =
                    std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                documents(&text, &path.display().to_string(), &mut manifests)?;
            }
        }
        if manifests.is_empty() && !self.filenames.is_empty() {
            bail!(
                "no objects found in {}",
                self.filenames.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
            );
        }
        Ok(manifests)
    }
}

/// A file is itself; a folder is its manifests in the order of their names.
fn expand(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    let metadata =
        std::fs::metadata(path).with_context(|| format!("the path {:?} does not exist", path.display()))?;
    if !metadata.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut entries: Vec<PathBuf> = std::fs::read_dir(path)
        .with_context(|| format!("listing {}", path.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .with_context(|| format!("listing {}", path.display()))?;
    entries.sort();
    let mut files = Vec::new();
    for entry in entries {
        if entry.is_dir() {
            if recursive {
                files.extend(expand(&entry, true)?);
            }
        } else if entry
            .extension()
            .is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|known| extension == *known))
        {
            files.push(entry);
        }
    }
    Ok(files)
}

fn documents(text: &str, source: &str, out: &mut Vec<Manifest>) -> anyhow::Result<()> {
    for document in manifests::yaml::read(source, text.as_bytes())? {
        for document in document.into_objects() {
            out.push(manifest(document)?);
        }
    }
    Ok(())
}

fn manifest(document: Document) -> anyhow::Result<Manifest> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let object = document.value.clone();
    if document.kind().is_empty() {
        return Err(document.error("kind", "Object 'kind' is missing").into());
    }
    if document.api_version().is_empty() {
        return Err(document.error("apiVersion", "'apiVersion' is missing").into());
    }
    let Some(name) = text(&object["metadata"]["name"]) else {
        return Err(document
            .error("metadata.name", format!("metadata.name of this {} is missing", document.kind()))
            .into());
    };
    Ok(Manifest {
        api_version: document.api_version().to_owned(),
        kind: document.kind().to_owned(),
        namespace: text(&object["metadata"]["namespace"]),
        name,
        object,
        document,
    })
}
