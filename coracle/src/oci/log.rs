//! Telling failures: one line on standard error, and one in the log file, in the format that engines read.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use runtime::oci::OciError;

use super::flags::LogFormat;

/// Where log lines go.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<File>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(super) fn open(path: Option<&Path>, format: LogFormat, debug: bool) -> io::Result<Self> {
        let file = path.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        Ok(Self { file, format, debug })
    }

    /// What ended the command.
    pub(super) fn error(&self, error: &anyhow::Error) {
        let text = crate::error_line(error);
        let text = text.strip_prefix("error: ").unwrap_or(&text).to_owned();
        if self.file.is_some() {
            self.line("error", &text);
        }
        match error.downcast_ref() {
            // What a shell would say of a program that is there and cannot be executed.
            Some(OciError::Execve { .. }) => eprintln!("{text}"),
            _ => eprintln!("error: {text}"),
        }
    }

    /// What went wrong without ending it.
    pub(super) fn warnings(&self, warnings: &[String]) {
        for warning in warnings {
            self.line("warning", warning);
        }
    }

    /// Does something that may warn, and tells the warnings, also when it fails in the end.
    pub(super) fn collect<T, E>(&self, act: impl FnOnce(&mut Vec<String>) -> Result<T, E>) -> Result<T, E> {
        let mut warnings = Vec::new();
        let result = act(&mut warnings);
        self.warnings(&warnings);
        result
    }

    /// Whether everything is to be told.
    pub(super) fn tells_all(&self) -> bool {
        self.debug
    }

    /// What was done.
    pub(super) fn debug(&self, lines: &[String]) {
        for line in lines.iter().filter(|_| self.debug) {
            self.line("debug", line);
        }
    }

    /// A line for the log file, or for standard error where there is none.
    fn line(&self, level: &str, text: &str) {
        let time = runtime::oci::now();
        let line = match self.format {
            LogFormat::Json => serde_json::json!({ "level": level, "msg": text, "time": time }).to_string(),
            LogFormat::Text => format!("time={time:?} level={level} msg={text:?}"),
        };
        let Some(mut file) = self.file.as_ref() else {
            eprintln!("{line}");
            return;
        };
        // There is nowhere to complain about the log.
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}
