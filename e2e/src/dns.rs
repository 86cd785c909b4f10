//! A DNS server whose answers a test changes.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
};

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SRV},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::watch,
    task::JoinHandle,
};

/// A server over UDP and TCP on one port of 127.0.0.1. It ends when this value is dropped.
pub struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    answering: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Zone {
    records: HashMap<(String, RecordType), (u32, Vec<RData>)>,
    questions: Vec<(String, RecordType)>,
    over_tcp: usize,
    fails: bool,
    truncates: bool,
}

impl Dns {
    /// A server that knows no name.
    pub async fn start() -> Self {
        let (udp, tcp, address) = bind().await;
        let zone = Arc::new(Mutex::new(Zone::default()));
        let answering = watch::Sender::new(true);
        let tasks = vec![
            tokio::spawn(serve_udp(udp, Arc::clone(&zone), answering.subscribe())),
            tokio::spawn(serve_tcp(tcp, Arc::clone(&zone), answering.subscribe())),
        ];
        Self { address, zone, answering, tasks }
    }

    /// `dns_resolver` for `kong.conf`: this server and no other.
    pub fn conf(&self) -> String {
        format!("dns_resolver = {}", self.address)
    }

    /// Sets the addresses of a name; their records live for `ttl` seconds.
    pub fn addresses(&self, name: &str, ttl: u32, ips: &[&str]) {
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
            ips.iter().map(|ip| ip.parse::<IpAddr>().unwrap()).partition(IpAddr::is_ipv4);
        let data = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        };
        self.set(name, RecordType::A, ttl, v4.into_iter().map(data).collect());
        self.set(name, RecordType::AAAA, ttl, v6.into_iter().map(data).collect());
    }

    /// Sets the services of a name: priority, weight, port and target of each.
    pub fn services(&self, name: &str, ttl: u32, services: &[(u16, u16, u16, &str)]) {
        let services = services
            .iter()
            .map(|(priority, weight, port, target)| RData::SRV(SRV::new(*priority, *weight, *port, fqdn(target))));
        self.set(name, RecordType::SRV, ttl, services.collect());
    }

    /// Makes a name another name for a second one.
    pub fn alias(&self, name: &str, ttl: u32, target: &str) {
        self.set(name, RecordType::CNAME, ttl, vec![RData::CNAME(CNAME(fqdn(target)))]);
    }

    fn set(&self, name: &str, kind: RecordType, ttl: u32, data: Vec<RData>) {
        let records = &mut self.zone.lock().unwrap().records;
        let key = (name.to_owned(), kind);
        if data.is_empty() {
            records.remove(&key)
        } else {
            records.insert(key, (ttl, data))
        };
    }

    /// Forgets a name: it does not exist any more.
    pub fn forget(&self, name: &str) {
        self.zone.lock().unwrap().records.retain(|(known, _), _| known != name);
    }

    /// Whether every question is answered with SERVFAIL.
    pub fn fails(&self, fails: bool) {
        self.zone.lock().unwrap().fails = fails;
    }

    /// Whether answers over UDP are cut short.
    pub fn truncates(&self, truncates: bool) {
        self.zone.lock().unwrap().truncates = truncates;
    }

    /// Whether questions are answered; those that come meanwhile are answered afterwards.
    pub fn answers(&self, answers: bool) {
        self.answering.send_replace(answers);
    }

    /// How often a name was asked for.
    pub fn questions(&self, name: &str, kind: &str) -> usize {
        let kind: RecordType = kind.parse().unwrap();
        let zone = self.zone.lock().unwrap();
        zone.questions.iter().filter(|(known, asked)| known == name && *asked == kind).count()
    }

    /// How many questions came over TCP.
    pub fn over_tcp(&self) -> usize {
        self.zone.lock().unwrap().over_tcp
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Both sockets on one port: with luck the first that is free for one of them is free for the other.
async fn bind() -> (UdpSocket, TcpListener, SocketAddr) {
    for _ in 0..100 {
        let udp = UdpSocket::bind(("127.0.0.1", 0)).await.unwrap();
        let address = udp.local_addr().unwrap();
        if let Ok(tcp) = TcpListener::bind(address).await {
            return (udp, tcp, address);
        }
    }
    panic!("no port is free for UDP and TCP");
}

fn fqdn(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap();
    name.set_fqdn(true);
    name
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>, answering: watch::Receiver<bool>) {
    let socket = Arc::new(socket);
    let mut buffer = [0; 1024];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
        let (socket, zone, mut answering) = (Arc::clone(&socket), Arc::clone(&zone), answering.clone());
        count(&zone, &question);
        tokio::spawn(async move {
            let _ = answering.wait_for(|answering| *answering).await;
            let mut reply = zone.lock().unwrap().reply(&question);
            if zone.lock().unwrap().truncates {
                reply.answers.clear();
                reply.metadata.truncation = true;
            }
            let _ = socket.send_to(&reply.to_vec().unwrap(), from).await;
        });
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<Mutex<Zone>>, answering: watch::Receiver<bool>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (zone, answering) = (Arc::clone(&zone), answering.clone());
        tokio::spawn(async move { serve_stream(stream, &zone, answering).await });
    }
}

async fn serve_stream(mut stream: TcpStream, zone: &Mutex<Zone>, mut answering: watch::Receiver<bool>) -> Option<()> {
    loop {
        let length = stream.read_u16().await.ok()?;
        let mut bytes = vec![0; usize::from(length)];
        stream.read_exact(&mut bytes).await.ok()?;
        let question = Message::from_vec(&bytes).ok()?;
        count(zone, &question);
        zone.lock().unwrap().over_tcp += 1;
        let _ = answering.wait_for(|answering| *answering).await;
        let reply = zone.lock().unwrap().reply(&question).to_vec().unwrap();
        stream.write_u16(u16::try_from(reply.len()).unwrap()).await.ok()?;
        stream.write_all(&reply).await.ok()?;
    }
}

fn count(zone: &Mutex<Zone>, question: &Message) {
    for query in &question.queries {
        zone.lock().unwrap().questions.push((plain(query.name()), query.query_type()));
    }
}

fn plain(name: &Name) -> String {
    name.to_lowercase().to_ascii().trim_end_matches('.').to_owned()
}

impl Zone {
    /// What a resolver with all this in its cache says: the chain of aliases, and what is at its end.
    fn reply(&self, question: &Message) -> Message {
        let mut reply = Message::response(question.metadata.id, OpCode::Query);
        reply.metadata.recursion_desired = true;
        reply.metadata.recursion_available = true;
        let Some(query) = question.queries.first() else { return reply };
        reply.add_query(query.clone());
        if self.fails {
            reply.metadata.response_code = ResponseCode::ServFail;
            return reply;
        }
        let mut name = plain(query.name());
        if !self.records.keys().any(|(known, _)| *known == name) {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        for _ in 0..8 {
            let mut add = |kind: RecordType| {
                let (ttl, data) = self.records.get(&(name.clone(), kind))?;
                for data in data {
                    reply.add_answer(Record::from_rdata(fqdn(&name), *ttl, data.clone()));
                }
                data.first().cloned()
            };
            if add(query.query_type()).is_some() {
                break;
            }
            match add(RecordType::CNAME) {
                Some(RData::CNAME(target)) => name = plain(&target.0),
                _ => break,
            }
        }
        reply
    }
}
