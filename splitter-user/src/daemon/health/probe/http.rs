//! A GET request, of which only the status of the answer counts.

use std::net::SocketAddr;
use std::ops::RangeInclusive;

use httparse::{EMPTY_HEADER, Response, Status};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Limit, dial};

/// Longest head of an answer in bytes, interim answers included.
const MOST_BYTES: usize = 16 << 10;
/// Most headers of an answer.
const MOST_HEADERS: usize = 128;

/// Asks for a path. Fails where no answer with a good status comes in time.
pub(super) async fn get(
    addr: SocketAddr,
    path: &str,
    host: Option<&str>,
    statuses: &[RangeInclusive<u16>],
    limit: &Limit,
) -> Result<(), String> {
    let mut stream = dial(addr, limit).await?;
    let host = host.map_or_else(|| addr.to_string(), str::to_owned);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: splitter/{}\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    let what = format!("GET {path} from {addr}");
    limit.hold_io(&format!("send {what}"), stream.write_all(request.as_bytes())).await?;
    let mut head = Vec::with_capacity(1 << 10);
    let status = loop {
        let read = read_more(&mut stream, &mut head);
        if limit.hold_io(&what, read).await? == 0 {
            return Err(format!("{what}: the answer ended after {} bytes", head.len()));
        }
        if let Some(status) = parse_status(&head).map_err(|why| format!("{what}: {why}"))? {
            break status;
        }
        if head.len() >= MOST_BYTES {
            return Err(format!(
                "{what}: the head of the answer is longer than {MOST_BYTES} bytes"
            ));
        }
    };
    let is_good = statuses.iter().any(|good| good.contains(&status));
    if is_good { Ok(()) } else { Err(format!("{what}: status {status}")) }
}

/// Reads what is there, up to the longest head.
async fn read_more(stream: &mut TcpStream, head: &mut Vec<u8>) -> std::io::Result<usize> {
    let room = MOST_BYTES.saturating_sub(head.len());
    stream.take(room as u64).read_buf(head).await
}

/// The status of a whole head, without those of interim answers before it.
fn parse_status(mut bytes: &[u8]) -> Result<Option<u16>, String> {
    loop {
        let mut headers = [EMPTY_HEADER; MOST_HEADERS];
        let mut response = Response::new(&mut headers);
        let parsed = response.parse(bytes);
        let parsed = parsed.map_err(|error| format!("not an answer over HTTP/1.1: {error}"))?;
        let Status::Complete(length) = parsed else { return Ok(None) };
        match response.code {
            // 101 ends the exchange over HTTP.
            Some(100 | 102..=199) => bytes = bytes.get(length..).unwrap_or_default(),
            status => return Ok(status),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interim_answers_are_passed_over() {
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        assert_eq!(parse_status(early), Ok(None));
        let whole = [early, &b"HTTP/1.1 204 No Content\r\n\r\n"[..]].concat();
        assert_eq!(parse_status(&whole), Ok(Some(204)));
        assert_eq!(parse_status(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), Ok(Some(101)));
    }

    #[test]
    fn a_part_of_a_head_is_no_answer() {
        let whole = b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(parse_status(&whole[..length]), Ok(None), "{length}");
        }
        assert!(parse_status(b"220 mail.example ESMTP\r\n").is_err());
    }
}
