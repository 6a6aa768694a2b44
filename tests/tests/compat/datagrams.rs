//! Datagrams of sockets that are connected, and what is not looked at.

use anyhow::Result;
use splitter_tests::datagrams::{DatagramServer, datagram_socket, exchange, receive};
use splitter_tests::shared::with_node;

use crate::{FRONTEND, V1, V2, addr, decided, service};

const OTHER: &str = "127.10.0.2:8080";

#[test]
fn a_datagram_that_names_no_address_goes_to_the_peer() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", &format!("{FRONTEND}/udp"), V1, ""))?;
        let _servers = (DatagramServer::echo(V1)?, DatagramServer::echo(V2)?);
        let client = datagram_socket("127.0.0.1:0")?;
        client.connect(FRONTEND)?;
        // A new backend is for new sockets: nothing looks at what names no address.
        node.apply(&service("shop", &format!("{FRONTEND}/udp"), V2, ""))?;
        for _ in 0..3 {
            client.send(b"?")?;
            assert_eq!(receive(&client)?, (addr(FRONTEND), 19001));
        }
        assert_eq!(decided(node, "shop")?, 1);
        Ok(())
    })
}

#[test]
fn a_connected_socket_that_names_an_address_is_split_by_it() -> Result<()> {
    with_node(|node| {
        let shop = service("shop", &format!("{FRONTEND}/udp"), V1, "");
        node.apply(&format!("{shop}---\n{}", service("other", &format!("{OTHER}/udp"), V2, "")))?;
        let _servers = (DatagramServer::echo(V1)?, DatagramServer::echo(V2)?);
        let client = datagram_socket("127.0.0.1:0")?;
        client.connect(FRONTEND)?;
        client.send_to(b"?", OTHER)?;
        assert_eq!(decided(node, "other")?, 1);
        // It went to the other's backend, whose answer a connected socket is not given.
        client.connect(OTHER)?;
        client.send(b"?")?;
        assert_eq!(receive(&client)?, (addr(OTHER), 19002));
        Ok(())
    })
}

#[test]
fn a_socket_that_is_bound_keeps_its_address() -> Result<()> {
    with_node(|node| {
        node.apply(&service("shop", &format!("{FRONTEND}/udp"), V1, ""))?;
        let server = datagram_socket(V1)?;
        let client = datagram_socket("127.0.0.9:12345")?;
        client.send_to(b"?", FRONTEND)?;
        assert_eq!(server.recv_from(&mut [0; 8])?, (1, addr("127.0.0.9:12345")));
        Ok(())
    })
}

#[test]
fn a_server_that_answers_is_left_alone() -> Result<()> {
    with_node(|node| {
        // The clients of a server seldom have the address of a frontend; here one has.
        node.apply(&service("shop", "127.0.0.9:12345/udp", V2, "datagrams: connected,"))?;
        let _server = DatagramServer::echo(V1)?;
        let client = datagram_socket("127.0.0.9:12345")?;
        assert_eq!(exchange(&client, addr(V1))?, (addr(V1), 19001));
        Ok(())
    })
}
