//! Asks the daemon.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;

use crate::daemon::DEFAULT_SOCKET;
use crate::daemon::control::{MAX_REQUEST, Problem, Request, Response, Text};
use crate::policy::diagnostic::Diagnostic;
use crate::policy::{self, Source};

/// Environment variable that says where the control socket is.
const SOCKET_VARIABLE: &str = "SPLITTER_SOCKET";

/// Where the daemon is.
#[derive(Args, Clone, Debug)]
pub(crate) struct Address {
    /// Control socket of the daemon.
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET, env = SOCKET_VARIABLE)]
    socket: PathBuf,
}

/// Where the daemon is, for verbs that ask it only where no files are named.
#[derive(Args, Clone, Debug)]
pub(crate) struct LiveAddress {
    /// Control socket of the daemon. Its defaults are not clap's: from the environment, it would
    /// exclude files that are named.
    #[arg(long, value_name = "PATH", help = format!(
        "Control socket of the daemon [default: ${SOCKET_VARIABLE}, or {DEFAULT_SOCKET}]"
    ), long_help = None::<&str>)]
    socket: Option<PathBuf>,
}

impl LiveAddress {
    /// Whether an option says where the daemon is.
    pub(crate) fn is_given(&self) -> bool {
        self.socket.is_some()
    }

    /// The address that the options and the environment say.
    pub(crate) fn find(&self) -> Address {
        let socket = self.socket.clone();
        let socket = socket.or_else(|| std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from));
        Address { socket: socket.unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET)) }
    }
}

/// What came of a request.
pub(crate) enum Answer {
    /// What was asked for.
    Done(Response),
    /// Refused; standard error has the reason.
    Refused,
}

impl Address {
    /// Whether nothing listens there.
    pub(crate) fn is_vacant(&self) -> bool {
        UnixStream::connect(&self.socket).is_err_and(|error| is_vacant(&error))
    }

    /// Whether it is where a daemon listens unless an option says otherwise.
    pub(crate) fn is_default(&self) -> bool {
        self.socket == Path::new(DEFAULT_SOCKET)
    }

    /// Says that nothing listens there.
    pub(crate) fn describe_vacancy(&self) -> String {
        format!("no daemon listens at {}", self.socket.display())
    }

    /// Sends a request and waits for the answer. Refusals go to standard error.
    pub(crate) fn ask(&self, request: &Request) -> anyhow::Result<Answer> {
        match self.exchange(request)? {
            Response::Failed { message } => {
                super::complain(&format!("splitter: {message}\n"))?;
                Ok(Answer::Refused)
            }
            Response::Invalid { problems, sources } => {
                show_problems(problems, sources)?;
                super::complain("splitter: nothing was changed\n")?;
                Ok(Answer::Refused)
            }
            response => Ok(Answer::Done(response)),
        }
    }

    fn exchange(&self, request: &Request) -> anyhow::Result<Response> {
        let bytes = serde_json::to_vec(request).context("write the request")?;
        let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= MAX_REQUEST);
        let Some(length) = length else {
            bail!("the request has {} bytes; the daemon takes at most {MAX_REQUEST}", bytes.len());
        };
        let mut stream = UnixStream::connect(&self.socket).map_err(|error| self.explain(error))?;
        // A daemon that refuses the caller answers before it reads: its answer counts.
        let sent = stream
            .write_all(&length.to_le_bytes())
            .and_then(|()| stream.write_all(&bytes))
            .context("send the request");
        match read_response(&mut stream) {
            Ok(response) => Ok(response),
            Err(error) => sent.and(Err(error)),
        }
    }

    fn explain(&self, error: io::Error) -> anyhow::Error {
        if is_vacant(&error) {
            let vacancy = self.describe_vacancy();
            return anyhow!(
                "{vacancy}; start one with `splitter run` or `systemctl start \
                 splitter`, or name its --socket"
            );
        }
        let socket = self.socket.display();
        anyhow::Error::new(error).context(format!("connect to the daemon at {socket}"))
    }
}

fn is_vacant(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn read_response(stream: &mut UnixStream) -> anyhow::Result<Response> {
    let lost = "the daemon ended the connection without an answer; its log says more";
    let mut length = [0; 4];
    stream.read_exact(&mut length).context(lost)?;
    let mut bytes = Vec::new();
    let length = u64::from(u32::from_le_bytes(length));
    stream.take(length).read_to_end(&mut bytes).context(lost)?;
    serde_json::from_slice(&bytes).context("understand the daemon; is it of another version?")
}

/// Policy sources as they cross the socket.
pub(crate) fn texts(sources: Vec<Source>) -> anyhow::Result<Vec<Text>> {
    let text = |Source { name, bytes, .. }| match String::from_utf8(bytes) {
        Ok(text) => Ok(Text { name, text }),
        Err(error) => Err(anyhow::Error::new(error).context(format!("read {name} as UTF-8"))),
    };
    sources.into_iter().map(text).collect()
}

/// Writes diagnostics of the daemon, with the texts that they point into.
pub(crate) fn show_problems(problems: Vec<Problem>, sources: Vec<Text>) -> anyhow::Result<()> {
    let sources: Vec<Source> =
        sources.into_iter().map(|text| Source::new(text.name, text.text)).collect();
    let problems: Vec<Diagnostic> = problems.into_iter().map(Diagnostic::from).collect();
    super::complain_of(&problems, &sources)
}

/// An answer of another kind than the request asks for.
pub(crate) fn unexpected() -> anyhow::Error {
    anyhow!("the daemon answered something else; is it of another version?")
}

/// Whether services are valid by themselves; their problems go to standard error. What documents
/// that are parts of services come to is known to the daemon alone, which has the others.
pub(crate) fn check_services(sources: &[Source]) -> anyhow::Result<bool> {
    let (is_valid, diagnostics) = match policy::load(sources) {
        Ok(loaded) if loaded.holds_resources() => return Ok(true),
        Ok(loaded) => (true, loaded.warnings),
        Err(_) if sources.iter().any(policy::holds_resources) => return Ok(true),
        Err(diagnostics) => (false, diagnostics),
    };
    super::complain_of(&diagnostics, sources)?;
    Ok(is_valid)
}
