//! The control socket: connections to requests, answers to connections.
//!
//! A client can be slow, lie about lengths, send garbage or go away; it costs the daemon one of a
//! few places for a few seconds. Who may ask is decided before what they ask is read.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Uid};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::debug;

use super::access::{Access, Rights};
use super::control::{MAX_REQUEST, Request, Response};
use super::requests::{Answer, Job};

/// Clients that are served at once; others wait in the socket's backlog.
const MAX_CLIENTS: usize = 32;
/// A client that says nothing for so long is sent away.
const IDLE: Duration = Duration::from_secs(5);
/// A request that is not complete after so long is given up.
const LONGEST_REQUEST: Duration = Duration::from_mins(1);
/// Bytes written at once, each within [`IDLE`].
const CHUNK: usize = 256 << 10;

/// A request on its way to the engine.
pub(crate) struct Call {
    pub(crate) job: Job,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// Binds the socket. Anybody may connect; what they may do is decided by who they are.
pub(crate) fn bind(path: &Path) -> io::Result<StdListener> {
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    check_replaceable(path)?;
    match StdStream::connect(path) {
        Ok(_) => {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, "another daemon listens there"));
        }
        // Left behind by a daemon that was killed.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = StdListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Only a socket may be replaced: whatever else has that name was not made by a daemon.
fn check_replaceable(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            let what = "something that is not a socket has that name; choose another --socket";
            Err(io::Error::new(io::ErrorKind::AlreadyExists, what))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Serves clients until the daemon ends.
pub(crate) async fn serve(listener: UnixListener, access: Access, calls: mpsc::Sender<Call>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let access = Arc::new(access);
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors: some are back as soon as a client is done.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (access, calls) = (Arc::clone(&access), calls.clone());
        tokio::spawn(async move {
            if let Err(error) = serve_client(stream, access, calls).await {
                debug!("a client of the control socket: {error}");
            }
            drop(place);
        });
    }
}

async fn serve_client(
    mut stream: UnixStream,
    access: Arc<Access>,
    calls: mpsc::Sender<Call>,
) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let (uid, gid) = (Uid::from_raw(peer.uid()), Gid::from_raw(peer.gid()));
    let rights = if let Some(rights) = access.plain_rights(uid) {
        rights
    } else {
        // The user database may be slow.
        let access = Arc::clone(&access);
        spawn_blocking(move || access.rights(uid, gid)).await.map_err(io::Error::other)?
    };
    let response = if rights.read {
        answer(&mut stream, &access, uid, rights, &calls).await
    } else {
        Answer::Ready(Response::Failed { message: access.refusal(uid, false) })
    };
    write_response(&mut stream, response).await
}

async fn answer(
    stream: &mut UnixStream,
    access: &Access,
    uid: Uid,
    rights: Rights,
    calls: &mpsc::Sender<Call>,
) -> Answer {
    let failed = |message: String| Answer::Ready(Response::Failed { message });
    let bytes = match timeout(LONGEST_REQUEST, read_request(stream)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return failed(format!("read the request: {error}")),
        Err(_) => return failed("the request took too long".to_owned()),
    };
    let request = match parse_request(&bytes) {
        Ok(request) => request,
        Err(message) => return failed(message),
    };
    if request.changes() && !rights.change {
        return failed(access.refusal(uid, true));
    }
    let job = match prepare(request).await {
        Ok(job) => job,
        Err(response) => return Answer::Ready(response),
    };
    let ended = || failed("the daemon is ending".to_owned());
    let (reply, response) = oneshot::channel();
    if calls.send(Call { job, reply }).await.is_err() {
        return ended();
    }
    response.await.unwrap_or_else(|_| ended())
}

/// Policy text may be long, so it is read elsewhere; all else is not worth a thread.
async fn prepare(request: Request) -> Result<Job, Response> {
    if !matches!(request, Request::Apply { .. } | Request::Compare { .. }) {
        return Job::prepare(request);
    }
    spawn_blocking(move || Job::prepare(request)).await.unwrap_or_else(|error| {
        Err(Response::Failed { message: format!("read the policy text: {error}") })
    })
}

/// Reads a request of an agreed length, taking memory only for what arrived.
async fn read_request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    timeout(IDLE, stream.read_exact(&mut length)).await??;
    let length = u32::from_le_bytes(length);
    if length > MAX_REQUEST {
        let message = format!("{length} bytes are too many; the most is {MAX_REQUEST}");
        return Err(io::Error::new(io::ErrorKind::InvalidData, message));
    }
    let mut bytes = Vec::new();
    let mut rest = stream.take(u64::from(length));
    while bytes.len() < length as usize {
        if timeout(IDLE, rest.read_buf(&mut bytes)).await?? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes)
}

fn parse_request(bytes: &[u8]) -> Result<Request, String> {
    serde_json::from_slice(bytes).map_err(|error| {
        format!("the daemon does not understand the request, is it of another version? {error}")
    })
}

/// What may be long is made and written as JSON by another thread.
async fn encode(answer: Answer) -> io::Result<Vec<u8>> {
    let encode = |response: &Response| serde_json::to_vec(response).map_err(io::Error::other);
    match answer {
        Answer::Ready(response) => encode(&response),
        Answer::Later(rest) => {
            spawn_blocking(move || encode(&rest())).await.map_err(io::Error::other)?
        }
    }
}

async fn write_response(stream: &mut UnixStream, answer: Answer) -> io::Result<()> {
    let bytes = encode(answer).await?;
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    timeout(IDLE, stream.write_all(&length.to_le_bytes())).await??;
    for chunk in bytes.chunks(CHUNK) {
        timeout(IDLE, stream.write_all(chunk)).await??;
    }
    timeout(IDLE, stream.shutdown()).await?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> io::Result<Vec<u8>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let mut input = input;
        runtime.block_on(read_request(&mut input))
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(body.len()).unwrap().to_le_bytes().to_vec();
        bytes.extend_from_slice(body);
        bytes
    }

    #[test]
    fn a_request_is_read_whole_and_no_further() {
        let mut bytes = framed(b"{\"verb\":\"dump\"}");
        bytes.extend_from_slice(b"garbage");
        let request = read(&bytes).unwrap();
        assert_eq!(parse_request(&request), Ok(Request::Dump));
    }

    #[test]
    fn lies_about_the_length_are_refused() {
        let too_long = read(&(MAX_REQUEST + 1).to_le_bytes()).unwrap_err();
        assert!(too_long.to_string().contains("the most is 67108864"), "{too_long}");
        let cut = read(&[16, 0, 0, 0, b'{']).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&[1]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn garbage_is_answered() {
        for garbage in [&b""[..], b"null", b"{\"verb\":\"fly\"}", b"\xff\xfe", b"[[[["] {
            let message = parse_request(garbage).unwrap_err();
            assert!(message.contains("does not understand"), "{message}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(parse_request(deep.as_bytes()).is_err());
    }
}
