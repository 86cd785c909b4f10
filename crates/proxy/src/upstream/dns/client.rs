//! One question to DNS servers: over UDP, over TCP when the answer was cut short, to one server after another.

use std::{
    collections::HashMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType},
    serialize::binary::DecodeError,
};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use super::ResolveError;

/// The longest answer over TCP that is read: a name with a few thousand addresses.
const MAX_MESSAGE: usize = 65_535;
/// Answers are asked for without EDNS, so no datagram is longer than 512 bytes; more does no harm.
const MAX_DATAGRAM: usize = 4096;
/// Records of an answer that are looked at.
const MAX_RECORDS: usize = 2048;
/// CNAME records that are followed within one answer.
const MAX_LINKS: usize = 16;

/// Whom to ask, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Servers {
    pub(super) addresses: Vec<SocketAddr>,
    /// For one attempt.
    pub(super) timeout: Duration,
    pub(super) attempts: usize,
    /// Begin with another server each time.
    pub(super) rotate: bool,
}

/// The records of an answer that concern the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Records {
    /// Those of the type that was asked for, of the name itself or of what it is another name for.
    pub(super) found: Vec<RData>,
    /// The name at the end of the chain of CNAME records.
    pub(super) canonical: Name,
    /// Seconds; the least on the way. Of no meaning where nothing was found and there is no chain.
    pub(super) ttl: u32,
}

/// Asks for the records of a name.
///
/// # Errors
/// What the server said, or that no server could be made to say anything.
pub(super) async fn ask(servers: &Servers, name: &Name, kind: RecordType) -> Result<Records, ResolveError> {
    let count = servers.addresses.len();
    if count == 0 {
        return Err(ResolveError::Transport("failed to create a resolver: no nameservers specified".to_owned()));
    }
    let first = if servers.rotate { fastrand::usize(..count) } else { 0 };
    let mut failed = None;
    // Each server as often as the others, and together no more often than the attempts say.
    for attempt in 0..servers.attempts.max(1) {
        let Some(server) = servers.addresses.get((first + attempt) % count).copied() else { continue };
        match ask_one(server, servers.timeout, name, kind).await {
            Ok(message) => match message.metadata.response_code {
                ResponseCode::NoError => return records(&message, name, kind),
                ResponseCode::NXDomain => return Err(ResolveError::NAME_ERROR),
                // Another server may know better; the error stays if none does.
                code => {
                    failed = Some(server_error(code));
                    if attempt + 1 >= count {
                        break;
                    }
                }
            },
            Err(error) => failed = Some(error),
        }
    }
    Err(failed.unwrap_or(ResolveError::Empty))
}

/// The words of lua-resty-dns.
fn server_error(code: ResponseCode) -> ResolveError {
    let text = match code {
        ResponseCode::FormErr => "format error",
        ResponseCode::ServFail => "server failure",
        ResponseCode::NXDomain => "name error",
        ResponseCode::NotImp => "not implemented",
        ResponseCode::Refused => "refused",
        _ => "unknown",
    };
    ResolveError::Server(code.into(), text)
}

async fn ask_one(server: SocketAddr, limit: Duration, name: &Name, kind: RecordType) -> Result<Message, ResolveError> {
    let failed = |error: &io::Error| {
        let why = match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            io::ErrorKind::TimedOut => "timeout".to_owned(),
            _ => error.to_string(),
        };
        ResolveError::Transport(format!("failed to receive reply from UDP server {server}: {why}"))
    };
    let timed_out = || failed(&io::Error::from(io::ErrorKind::TimedOut));
    let mut question = Message::new(unpredictable()?, MessageType::Query, OpCode::Query);
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(name.clone(), kind));
    let bytes = question.to_vec().map_err(|error| ResolveError::Transport(error.to_string()))?;
    let reply = tokio::time::timeout(limit, over_udp(server, &question, &bytes)).await;
    match reply.map_err(|_| timed_out())?.map_err(|error| failed(&error))? {
        Reply::Whole(message) => Ok(*message),
        Reply::Truncated => {
            let reply = tokio::time::timeout(limit, over_tcp(server, &question, &bytes)).await;
            reply.map_err(|_| timed_out())?.map_err(|error| {
                ResolveError::Transport(format!("failed to receive reply from TCP server {server}: {error}"))
            })
        }
    }
}

/// The id of a question: with the port, what an answer has to be guessed by (RFC 5452, 9.2). Clients know other random
/// numbers of the gateway, request ids for one; this must not follow from them.
fn unpredictable() -> Result<u16, ResolveError> {
    let mut id = [0; 2];
    SystemRandom::new()
        .fill(&mut id)
        .map_err(|_| ResolveError::Transport("the system has no random numbers".to_owned()))?;
    Ok(u16::from_ne_bytes(id))
}

enum Reply {
    Whole(Box<Message>),
    Truncated,
}

async fn over_udp(server: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Reply> {
    // A port of its own for each question: half of what keeps others from guessing an answer.
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(server).await?;
    socket.send(bytes).await?;
    let mut buffer = [0; MAX_DATAGRAM];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let datagram = buffer.get(..length).unwrap_or_default();
        // What is cut short may end in the middle of a record, and is not to be read as a whole.
        if is_truncated(datagram) && datagram.get(..2) == Some(&question.metadata.id.to_be_bytes()) {
            return Ok(Reply::Truncated);
        }
        // Somebody else's, or nobody's: the right one may still come.
        if let Some(message) = Message::from_vec(datagram).ok().filter(|message| answers(question, message)) {
            return Ok(Reply::Whole(Box::new(message)));
        }
    }
}

/// The TC bit (RFC 1035, 4.1.1).
fn is_truncated(datagram: &[u8]) -> bool {
    datagram.get(2).is_some_and(|flags| flags & 0b10 != 0)
}

async fn over_tcp(server: SocketAddr, question: &Message, bytes: &[u8]) -> io::Result<Message> {
    let mut socket = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes(), bytes].concat();
    socket.write_all(&framed).await?;
    let length = usize::from(socket.read_u16().await?);
    let mut reply = vec![0; length.min(MAX_MESSAGE)];
    socket.read_exact(&mut reply).await?;
    // Thousands of records, each of which may point through the whole message, take their time.
    let message = tokio::task::spawn_blocking(move || {
        let mut message = Message::from_vec(&reply)?;
        message.answers.truncate(MAX_RECORDS);
        Ok(message)
    });
    let message = message.await?.map_err(|error: DecodeError| io::Error::new(io::ErrorKind::InvalidData, error))?;
    if answers(question, &message) { Ok(message) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Whether a message is the answer to this question and to no other.
fn answers(question: &Message, reply: &Message) -> bool {
    let same = |reply: &Query| {
        question.queries.first().is_some_and(|asked| {
            asked.query_type() == reply.query_type() && asked.name().to_lowercase() == reply.name().to_lowercase()
        })
    };
    reply.metadata.message_type == MessageType::Response
        && reply.metadata.id == question.metadata.id
        && reply.queries.first().is_none_or(same)
}

/// Takes the records that belong to the name, along the chain of CNAME records.
fn records(message: &Message, name: &Name, kind: RecordType) -> Result<Records, ResolveError> {
    let mut by_owner: HashMap<String, Vec<&Record>> = HashMap::new();
    for record in message.answers.iter().take(MAX_RECORDS) {
        by_owner.entry(record.name.to_lowercase().to_ascii()).or_default().push(record);
    }
    let mut canonical = name.to_lowercase();
    let mut ttl = u32::MAX;
    // A chain that goes on beyond that is a circle, or meant to keep us busy.
    for _ in 0..=MAX_LINKS {
        let own = by_owner.get(&canonical.to_ascii()).map(Vec::as_slice).unwrap_or_default();
        let found: Vec<_> = own.iter().filter(|record| record.record_type() == kind).collect();
        if !found.is_empty() {
            ttl = found.iter().map(|record| record.ttl).fold(ttl, u32::min);
            return Ok(Records {
                found: found.into_iter().map(|record| record.data.clone()).collect(),
                canonical,
                ttl,
            });
        }
        let next = own.iter().find_map(|record| match &record.data {
            RData::CNAME(cname) => Some((cname.0.to_lowercase(), record.ttl)),
            _ => None,
        });
        match next {
            Some((alias, alias_ttl)) => {
                ttl = ttl.min(alias_ttl);
                canonical = alias;
            }
            None => return Ok(Records { found: Vec::new(), canonical, ttl }),
        }
    }
    Err(ResolveError::Recursion)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::{
        Record,
        rdata::{A, CNAME},
    };

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_ascii(text).unwrap()
    }

    fn message(records: &[(&str, u32, RData)]) -> Message {
        let mut message = Message::response(1, OpCode::Query);
        for (owner, ttl, data) in records {
            message.add_answer(Record::from_rdata(name(owner), *ttl, data.clone()));
        }
        message
    }

    fn a(last: u8) -> RData {
        RData::A(A::new(10, 0, 0, last))
    }

    fn cname(target: &str) -> RData {
        RData::CNAME(CNAME(name(target)))
    }

    #[test]
    fn records_are_found_along_the_chain_and_live_as_long_as_the_shortest() {
        let found = |records: &[(&str, u32, RData)]| {
            super::records(&message(records), &name("A.test."), RecordType::A)
                .map(|records| (records.found.len(), records.canonical.to_ascii(), records.ttl))
        };
        assert_eq!(found(&[("a.test.", 9, a(1)), ("a.test.", 5, a(2))]), Ok((2, "a.test.".into(), 5)));
        assert_eq!(found(&[("b.test.", 9, a(1)), ("a.TEST.", 3, cname("B.test."))]), Ok((1, "b.test.".into(), 3)));
        assert_eq!(found(&[("a.test.", 3, cname("b.test."))]), Ok((0, "b.test.".into(), 3)));
        // What was not asked for is not believed.
        assert_eq!(found(&[("evil.test.", 9, a(1))]), Ok((0, "a.test.".into(), u32::MAX)));
        assert_eq!(
            found(&[("a.test.", 3, cname("b.test.")), ("b.test.", 3, cname("a.test."))]),
            Err(ResolveError::Recursion)
        );
    }

    #[test]
    fn a_long_answer_is_read_quickly() {
        // A chain as long as an answer can be: read link by link, it would be gone through thousands of times.
        let links = 5000;
        let owners: Vec<String> = (0..=links).map(|n| format!("n{n}.test.")).collect();
        let chain: Vec<(&str, u32, RData)> =
            owners.iter().zip(&owners[1..]).map(|(owner, target)| (owner.as_str(), 9, cname(target))).collect();
        let found = |records| super::records(&message(records), &name("n0.test."), RecordType::A);
        assert_eq!(found(&chain), Err(ResolveError::Recursion));
        let end = (owners[MAX_LINKS].as_str(), 9, a(1));
        let within = [&chain[..MAX_LINKS], &[end]].concat();
        assert_eq!(found(&within).map(|records| records.found.len()), Ok(1));
        let many: Vec<_> = (0..links).map(|n| ("n0.test.", 9, a(n as u8))).collect();
        assert_eq!(found(&many).map(|records| records.found.len()), Ok(MAX_RECORDS));
    }

    #[test]
    fn ids_do_not_follow_from_the_random_numbers_that_clients_see() {
        let ids = || {
            fastrand::seed(7);
            (0..8).map(|_| unpredictable().unwrap()).collect::<Vec<_>>()
        };
        assert_ne!(ids(), ids());
    }

    #[test]
    fn only_the_answer_to_the_question_is_taken() {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(name("a.test."), RecordType::A));
        let reply = |id, owner: &str, kind| {
            let mut reply = Message::response(id, OpCode::Query);
            reply.add_query(Query::query(name(owner), kind));
            answers(&question, &reply)
        };
        assert!(reply(7, "A.test.", RecordType::A));
        assert!(!reply(8, "a.test.", RecordType::A));
        assert!(!reply(7, "b.test.", RecordType::A));
        assert!(!reply(7, "a.test.", RecordType::AAAA));
        assert!(!answers(&question, &question));
    }
}
