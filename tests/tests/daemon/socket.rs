//! Clients of the control socket that mean no good.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use anyhow::{Result, ensure};
use splitter_tests::daemon::{Site, read_answer};

use crate::{ExactClient, SHOP, shop};

/// Sends bytes and no more, and reads what comes until the daemon hangs up.
fn send(site: &Site, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = site.dial()?;
    // A daemon that hangs up on unread bytes breaks the connection.
    let _broken = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    Ok(answer)
}

fn framed(body: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = u32::try_from(body.len())?.to_le_bytes().to_vec();
    bytes.extend_from_slice(body);
    Ok(bytes)
}

#[test]
fn garbage_costs_the_daemon_nothing() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let _daemon = site.run(&["--policy", &policy])?;
    let mut client = ExactClient::new(SHOP, 20_000)?;
    let garbage = [
        Vec::new(),
        vec![0; 3],
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 1 << 20],
        framed(b"")?,
        framed(b"null")?,
        framed(b"{\"verb\":\"fly\"}")?,
        framed(&[0xff; 64])?,
        framed(&vec![b'['; 1 << 20])?,
        framed(b"{\"verb\":\"weight\",\"target\":\"\",\"weights\":[[\"\",4294967295]]}")?,
        framed(b"{\"verb\":\"dump\"}")?[..10].to_vec(),
    ];
    for bytes in garbage {
        send(&site, &bytes)?;
        site.splitter(&["status"])?.success()?;
        client.connect_times(3)?;
    }
    let mut stream = site.dial()?;
    stream.write_all(&u32::MAX.to_le_bytes())?;
    let answer = read_answer(&mut stream)?;
    ensure!(answer["message"].to_string().contains("too many"), "{answer}");
    Ok(())
}

#[test]
fn clients_that_wait_do_not_keep_others_out() -> Result<()> {
    let site = Site::new()?;
    let policy = site.write("policy.yaml", shop(20_000))?;
    let _daemon = site.run(&["--policy", &policy])?;
    let mut slow = site.dial()?;
    slow.write_all(&[1])?;
    let mut lost = site.dial()?;
    lost.write_all(&framed(b"{\"verb\":\"dump\"}")?)?;
    lost.shutdown(Shutdown::Read)?;
    drop(lost);
    let idle: Vec<UnixStream> = (0..100).map(|_| site.dial()).collect::<Result<_, _>>()?;
    site.splitter(&["status"])?.success()?;
    site.splitter(&["weight", "shop", "v1=0"])?.success()?;
    let answer = read_answer(&mut slow)?;
    ensure!(answer["answer"] == "failed", "whoever waits is sent away: {answer}");
    drop(idle);
    site.splitter(&["status"])?.success()?;
    Ok(())
}
