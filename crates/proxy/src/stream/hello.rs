//! The ClientHello, looked at before it is known who answers it: the gateway, or an upstream to which TLS is passed
//! through.

use std::{io, time::Duration};

use bytes::BytesMut;
use rustls::{CipherSuite, server::Acceptor};
use silverback_pdk::exchange::Hello;
use tokio::io::{AsyncRead, AsyncReadExt};

/// nginx's `preread_buffer_size`: what a client may send before its ClientHello is complete.
const MAX_HELLO: usize = 16 * 1024;

/// nginx's `preread_timeout`.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no ClientHello.
#[derive(Debug, thiserror::Error)]
pub(super) enum HelloError {
    #[error("the client closed the connection before its ClientHello was complete")]
    Closed,
    #[error("the ClientHello did not come within {} s", TIMEOUT.as_secs())]
    Timeout,
    #[error("the ClientHello is longer than {MAX_HELLO} bytes")]
    TooLong,
    #[error("no ClientHello: {0}")]
    Invalid(#[from] rustls::Error),
    #[error("{0}")]
    Read(#[from] io::Error),
}

/// Reads a ClientHello. What was read comes with it: nobody has answered it yet.
pub(super) async fn peek<S: AsyncRead + Unpin>(socket: &mut S) -> Result<(BytesMut, Hello), HelloError> {
    tokio::time::timeout(TIMEOUT, read(socket)).await.map_err(|_| HelloError::Timeout)?
}

async fn read<S: AsyncRead + Unpin>(socket: &mut S) -> Result<(BytesMut, Hello), HelloError> {
    let mut acceptor = Acceptor::default();
    let mut read = BytesMut::with_capacity(2048);
    let mut seen = 0;
    loop {
        while let Some(mut rest) = read.get(seen..).filter(|rest| !rest.is_empty()) {
            seen += acceptor.read_tls(&mut rest)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => {
                    let hello = accepted.client_hello();
                    let offers_tls13 = hello.cipher_suites().iter().any(is_tls13);
                    let alpn = hello.alpn().into_iter().flatten();
                    let hello = Hello {
                        server_name: hello.server_name().map(str::to_owned),
                        protocol: Some(if offers_tls13 { "TLSv1.3" } else { "TLSv1.2" }),
                        alpn: alpn.map(|name| String::from_utf8_lossy(name).into_owned()).collect(),
                    };
                    return Ok((read, hello));
                }
                Ok(None) => {}
                Err((error, _)) => return Err(error.into()),
            }
        }
        if read.len() >= MAX_HELLO {
            return Err(HelloError::TooLong);
        }
        read.reserve(2048);
        if socket.read_buf(&mut read).await? == 0 {
            return Err(HelloError::Closed);
        }
    }
}

fn is_tls13(suite: &CipherSuite) -> bool {
    matches!(
        suite,
        CipherSuite::TLS13_AES_128_GCM_SHA256
            | CipherSuite::TLS13_AES_256_GCM_SHA384
            | CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    fn hello(name: &str, alpn: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut client = ClientConnection::new(Arc::new(config), name.to_owned().try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn a_hello_is_read_and_kept() {
        let bytes = hello("a.test", &["h2", "http/1.1"]);
        // In pieces, and with what the client sends behind it.
        let (front, back) = bytes.split_at(7);
        let more = [back, b"more"].concat();
        let (read, found) = peek(&mut front.chain(&more[..])).await.unwrap();
        assert_eq!(&read[..], [&bytes[..], b"more"].concat());
        let alpn = vec!["h2".to_owned(), "http/1.1".to_owned()];
        assert_eq!(found, Hello { server_name: Some("a.test".to_owned()), protocol: Some("TLSv1.3"), alpn });
        // An address is no server name.
        let mut bytes = &hello("127.0.0.1", &[])[..];
        assert_eq!(peek(&mut bytes).await.unwrap().1.server_name, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_hello_is_told_apart() {
        let check = async |mut bytes: &[u8], expect: &str| {
            let problem = peek(&mut bytes).await.map(|_| ()).unwrap_err().to_string();
            assert!(problem.contains(expect), "{problem}");
        };
        check(b"", "closed the connection").await;
        check(&hello("a.test", &[])[..20], "closed the connection").await;
        check(b"GET / HTTP/1.1\r\n\r\n", "no ClientHello").await;
        let endless: Vec<u8> = [&[22, 3, 1, 0x3f, 0xff, 1, 0, 0xff, 0xf0][..], &[0; 40_000]].concat();
        check(&endless, "longer than").await;
        let (_client, mut silent) = tokio::io::duplex(64);
        assert!(matches!(peek(&mut silent).await, Err(HelloError::Timeout)));
    }

    proptest! {
        #[test]
        fn no_bytes_can_make_it_panic(flips in proptest::collection::vec((0_usize..250, any::<u8>()), 0..6)) {
            let mut bytes = hello("a.test", &["h2"]);
            for (at, byte) in flips {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            let _ = runtime.block_on(peek(&mut &bytes[..]));
        }
    }
}
