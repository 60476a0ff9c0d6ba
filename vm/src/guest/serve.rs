//! Answers what the host asks over the second serial port.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::command;
use super::reaper::Reaper;
use crate::control::{Hex, LINE, OUTPUT, PART, Request, Response};

const PORT: &str = "/dev/ttyS1";

/// Serves for ever. Without the port there is nobody to serve.
pub(crate) fn serve(reaper: &Reaper, end: &dyn Fn()) {
    let Ok(port) = open() else { return };
    let Ok(mut answers) = port.try_clone() else { return };
    let mut reader = BufReader::new(port);
    let mut line = Vec::new();
    loop {
        line.clear();
        match reader.by_ref().take(LINE).read_until(b'\n', &mut line) {
            Ok(1..) => {}
            _ => return,
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let response = match serde_json::from_slice(&line) {
            Ok(request) => answer(request, reaper, end),
            Err(error) => Response::Failed(format!("the request is not understood: {error}")),
        };
        let mut text = serde_json::to_vec(&response).unwrap_or_default();
        text.push(b'\n');
        // The host may have gone away; the next one asks again.
        let _ = answers.write_all(&text);
    }
}

fn open() -> io::Result<File> {
    let port = OpenOptions::new().read(true).write(true).open(PORT)?;
    // No echo, no line editing, no translation.
    let mut settings = tcgetattr(&port)?;
    settings.make_raw();
    tcsetattr(&port, OptionalActions::Now, &settings)?;
    Ok(port)
}

fn answer(request: Request, reaper: &Reaper, end: &dyn Fn()) -> Response {
    match request {
        Request::Ping => Response::Done,
        Request::PowerOff => {
            end();
            Response::Done
        }
        Request::Run { argv } => {
            run(&argv, reaper).unwrap_or_else(|error| Response::Failed(format!("{argv:?}: {error}")))
        }
        file => answer_file(file).unwrap_or(Response::Done),
    }
}

fn run(argv: &[String], reaper: &Reaper) -> io::Result<Response> {
    let mut command = command(argv);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (mut child, waiting) = reaper.spawn(&mut command)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = std::thread::spawn(move || stderr.map(collect).unwrap_or_default());
    let stdout = stdout.map(collect).unwrap_or_default();
    let stderr = errors.join().unwrap_or_default();
    let code = waiting.recv().map_err(io::Error::other)?;
    Ok(Response::Ended { code, stdout, stderr })
}

/// The answer to who asks for files; none to all others.
pub(crate) fn answer_file(request: Request) -> Option<Response> {
    match request {
        Request::Read { path, offset } => {
            Some(read(&path, offset).unwrap_or_else(|error| Response::Failed(format!("{path}: {error}"))))
        }
        Request::Write { path, offset, mode, data } => match write(&path, offset, mode, &data.0) {
            Ok(()) => Some(Response::Done),
            Err(error) => Some(Response::Failed(format!("{path}: {error}"))),
        },
        Request::Ping | Request::PowerOff | Request::Run { .. } => None,
    }
}

fn read(path: &str, offset: u64) -> io::Result<Response> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut part = Vec::new();
    file.take(PART).read_to_end(&mut part)?;
    Ok(Response::Data(Hex(part)))
}

fn write(path: &str, offset: u64, mode: u32, part: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(offset == 0).mode(mode).open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    file.write_all(part)
}

/// The first part of what a process writes; the rest is read and dropped, so that it can end.
fn collect(mut stream: impl Read) -> String {
    let mut kept = Vec::new();
    // What cannot be read any more does not come.
    let _ = stream.by_ref().take(OUTPUT as u64).read_to_end(&mut kept);
    let _ = io::copy(&mut stream, &mut io::sink());
    String::from_utf8_lossy(&kept).into_owned()
}
