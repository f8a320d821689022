//! What the network does to datagrams, decided without sockets; then the whole proxy over the loopback
//! interface.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{Instant, timeout},
};

use super::{
    LaneConfig, LinkProxyConfig, Running,
    fault::{LinkFault, Way},
    network::{Network, Parcel},
    start,
};

const SOON: Duration = Duration::from_secs(10);

fn fault(body: Value) -> LinkFault {
    let fault: LinkFault = serde_json::from_value(body).unwrap();
    fault.check().unwrap();
    fault
}

fn parcel(number: u8) -> Parcel {
    Parcel { client: SocketAddr::from(([127, 0, 0, 1], 7)), bytes: Bytes::copy_from_slice(&[number]) }
}

fn numbers(parcels: Vec<Parcel>) -> Vec<u8> {
    parcels.into_iter().map(|parcel| parcel.bytes[0]).collect()
}

/// Sends numbers 0 to 99 one way at one moment; what comes at once.
fn sent(network: &mut Network, now: Instant, way: Way) -> Vec<u8> {
    for number in 0..100 {
        network.arrive(now, way, parcel(number));
    }
    numbers(network.due(now, way))
}

fn hits(network: &Network) -> u64 {
    network.list().iter().map(|rule| rule["hits"].as_u64().unwrap()).sum()
}

#[test]
fn a_network_that_is_well_passes_everything_in_order() {
    let mut network = Network::default();
    let now = Instant::now();
    assert_eq!(sent(&mut network, now, Way::Up), (0..100).collect::<Vec<_>>());
    assert_eq!((network.passed(Way::Up), network.passed(Way::Down)), (100, 0));
    assert_eq!(network.next_due(), None);
}

#[test]
fn a_partition_of_one_direction_leaves_the_other() {
    let mut network = Network::default();
    let now = Instant::now();
    let id = network.arm(fault(json!({ "fault": "partition", "direction": "up" })));
    assert!(sent(&mut network, now, Way::Up).is_empty());
    assert_eq!(sent(&mut network, now, Way::Down).len(), 100);
    assert_eq!(hits(&network), 100);
    assert!(network.disarm(id) && !network.disarm(id));
    assert_eq!(sent(&mut network, now, Way::Up).len(), 100, "what was lost does not come back");
}

#[test]
fn losses_are_as_many_as_asked_for_counted_and_the_same_for_the_same_seed() {
    let now = Instant::now();
    let lose = |seed: u64| {
        let mut network = Network::default();
        network.arm(fault(json!({ "fault": "loss", "percent": 30, "direction": "down", "seed": seed })));
        let came = sent(&mut network, now, Way::Down);
        assert_eq!(u64::try_from(100 - came.len()).unwrap(), hits(&network));
        came
    };
    let came = lose(7);
    assert!((55..=85).contains(&came.len()), "{}", came.len());
    assert_eq!(came, lose(7));
    assert_ne!(came, lose(8));
}

#[test]
fn a_delay_keeps_the_order_whatever_the_jitter() {
    let mut network = Network::default();
    let now = Instant::now();
    network.arm(fault(json!({ "fault": "delay", "delay_ms": 100, "jitter_ms": 50, "seed": 1 })));
    assert!(sent(&mut network, now, Way::Up).is_empty());
    let first = network.next_due().unwrap();
    assert!(first >= now + Duration::from_millis(100) && first <= now + Duration::from_millis(150));
    let late = now + Duration::from_millis(150);
    assert_eq!(numbers(network.due(late, Way::Up)), (0..100).collect::<Vec<_>>());
    assert_eq!(hits(&network), 100);
}

#[test]
fn duplicates_come_behind_their_originals() {
    let mut network = Network::default();
    network.arm(fault(json!({ "fault": "duplicate", "percent": 100, "copies": 2 })));
    let came = sent(&mut network, Instant::now(), Way::Down);
    assert_eq!((came.len(), &came[..6]), (300, &[0, 0, 0, 1, 1, 1][..]));
    assert_eq!(hits(&network), 100);
}

#[test]
fn reordered_datagrams_are_overtaken_by_as_many_as_asked_for_and_none_is_lost() {
    let mut network = Network::default();
    let now = Instant::now();
    network.arm(fault(json!({ "fault": "reorder", "percent": 20, "by": 3, "hold_ms": 40, "seed": 3 })));
    let mut came = sent(&mut network, now, Way::Up);
    assert!(came.windows(2).any(|pair| pair[0] > pair[1]), "{came:?}");
    came.extend(numbers(network.due(now + Duration::from_millis(40), Way::Up)));
    assert_eq!(came.iter().copied().collect::<BTreeSet<_>>().len(), 100, "each once: {came:?}");
    assert_eq!(came.len(), 100);
    assert!(hits(&network) > 0);
}

#[test]
fn a_datagram_that_nothing_overtakes_goes_when_its_time_is_over_and_is_no_strike() {
    let mut network = Network::default();
    let now = Instant::now();
    network.arm(fault(json!({ "fault": "reorder", "percent": 100, "hold_ms": 40 })));
    network.arrive(now, Way::Up, parcel(1));
    assert!(network.due(now, Way::Up).is_empty());
    assert_eq!(network.next_due(), Some(now + Duration::from_millis(40)));
    assert_eq!(numbers(network.due(now + Duration::from_millis(40), Way::Up)), [1]);
    assert_eq!(hits(&network), 0);
    // Taken back while it is held: it goes at once.
    let later = now + Duration::from_millis(40);
    network.arrive(later, Way::Up, parcel(2));
    network.clear();
    assert_eq!(numbers(network.due(later, Way::Up)), [2]);
}

#[test]
fn faults_that_make_no_sense_are_refused_with_a_reason() {
    for (body, reason) in [
        (json!({ "fault": "loss", "percent": 0 }), "1 to 100"),
        (json!({ "fault": "loss", "percent": 101 }), "1 to 100"),
        (json!({ "fault": "delay", "delay_ms": 0 }), "`delay_ms` or `jitter_ms`"),
        (json!({ "fault": "delay", "delay_ms": 60_001 }), "at most 60000"),
        (json!({ "fault": "reorder", "percent": 5, "hold_ms": 0 }), "at least 1"),
        (json!({ "fault": "duplicate", "percent": 5, "copies": 0 }), "`copies`"),
        (json!({ "fault": "address_change", "times": 2 }), "`every_ms`"),
    ] {
        let fault: LinkFault = serde_json::from_value(body.clone()).unwrap();
        let refused = fault.check().unwrap_err();
        assert!(refused.contains(reason), "{body}: {refused}");
    }
    for body in [
        json!({ "fault": "earthquake" }),
        json!({ "fault": "loss" }),
        json!({ "fault": "loss", "percent": 5, "sometimes": true }),
        json!({ "fault": "partition", "direction": "sideways" }),
    ] {
        assert!(serde_json::from_value::<LinkFault>(body.clone()).is_err(), "{body}");
    }
}

/// A proxy with two lanes in front of something that answers.
struct World {
    proxy: Running,
    link: UdpSocket,
    tcp: TcpListener,
    http: reqwest::Client,
}

impl World {
    async fn new() -> Self {
        let _installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (link, tcp) = both_on_one_port().await;
        let upstream = link.local_addr().unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let lane = |name: &str| LaneConfig { name: name.to_owned(), listen: any };
        let config =
            LinkProxyConfig { control_listen: any, upstream, nodes: vec![lane("fsn-1"), lane("fsn-2")] };
        Self { proxy: start(&config).await.unwrap(), link, tcp, http: reqwest::Client::new() }
    }

    async fn agent(&self, lane: usize) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.proxy.nodes[lane].listen).await.unwrap();
        socket
    }

    /// The next datagram at the link and where it came from.
    async fn arrives(&self) -> (Vec<u8>, SocketAddr) {
        let mut buffer = [0; 2_000];
        let (length, from) = timeout(SOON, self.link.recv_from(&mut buffer)).await.unwrap().unwrap();
        (buffer[..length].to_vec(), from)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.proxy.control)
    }

    async fn arm(&self, node: &str, body: Value) -> (u16, Value) {
        let request = self.http.post(self.url(&format!("/nodes/{node}/faults"))).json(&body);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn clear(&self, node: &str) {
        let done = self.http.delete(self.url(&format!("/nodes/{node}/faults"))).send().await.unwrap();
        assert_eq!(done.status(), 204);
    }

    async fn show(&self, node: &str) -> Value {
        self.http.get(self.url(&format!("/nodes/{node}"))).send().await.unwrap().json().await.unwrap()
    }
}

/// A free UDP port may be taken for TCP, by a connection of another test for instance.
async fn both_on_one_port() -> (UdpSocket, TcpListener) {
    loop {
        let link = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(link.local_addr().unwrap()).await {
            return (link, tcp);
        }
    }
}

async fn reads(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2_000];
    let length = timeout(SOON, socket.recv(&mut buffer)).await.unwrap().unwrap();
    buffer[..length].to_vec()
}

#[tokio::test]
async fn datagrams_pass_both_ways_and_each_client_keeps_its_address() {
    let world = World::new().await;
    let (one, two) = (world.agent(0).await, world.agent(0).await);
    one.send(b"one").await.unwrap();
    let (bytes, of_one) = world.arrives().await;
    assert_eq!(bytes, b"one");
    two.send(b"two").await.unwrap();
    let (bytes, of_two) = world.arrives().await;
    assert_eq!(bytes, b"two");
    assert_ne!(of_one, of_two);
    world.link.send_to(b"for one", of_one).await.unwrap();
    world.link.send_to(b"for two", of_two).await.unwrap();
    assert_eq!((reads(&one).await, reads(&two).await), (b"for one".to_vec(), b"for two".to_vec()));
    one.send(b"again").await.unwrap();
    assert_eq!(world.arrives().await, (b"again".to_vec(), of_one));
    let shown = world.show("fsn-1").await;
    assert_eq!((&shown["flows"], &shown["passed"]), (&json!(2), &json!({ "up": 3, "down": 2 })));
    world.proxy.stop().await;
}

#[tokio::test]
async fn a_partition_cuts_one_node_until_it_is_taken_back() {
    let world = World::new().await;
    let (cut, well) = (world.agent(0).await, world.agent(1).await);
    let (status, _) = world.arm("fsn-1", json!({ "fault": "partition" })).await;
    assert_eq!(status, 200);
    cut.send(b"lost").await.unwrap();
    well.send(b"passes").await.unwrap();
    assert_eq!(world.arrives().await.0, b"passes");
    // The lane has seen the datagram once it has counted it.
    let counted = async {
        while world.show("fsn-1").await["rules"][0]["hits"] != 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, counted).await.unwrap();
    world.clear("fsn-1").await;
    cut.send(b"healed").await.unwrap();
    assert_eq!(world.arrives().await.0, b"healed");
    assert_eq!(world.show("fsn-1").await["rules"], json!([]));
    world.proxy.stop().await;
}

#[tokio::test]
async fn after_an_address_change_the_link_sees_another_port_and_the_agent_nothing() {
    let world = World::new().await;
    let agent = world.agent(0).await;
    agent.send(b"before").await.unwrap();
    let (_, before) = world.arrives().await;
    world.arm("fsn-1", json!({ "fault": "address_change" })).await;
    let changed = async {
        while world.show("fsn-1").await["rules"][0]["hits"] != 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, changed).await.unwrap();
    agent.send(b"after").await.unwrap();
    let (bytes, after) = world.arrives().await;
    assert_eq!(bytes, b"after");
    assert_ne!(after, before);
    world.link.send_to(b"to the old", before).await.unwrap();
    world.link.send_to(b"to the new", after).await.unwrap();
    assert_eq!(reads(&agent).await, b"to the new");
    world.proxy.stop().await;
}

#[tokio::test]
async fn connections_pass_on_the_same_port_and_wait_while_the_way_is_cut() {
    let world = World::new().await;
    let mut agent = TcpStream::connect(world.proxy.nodes[0].listen).await.unwrap();
    let (mut link, _) = timeout(SOON, world.tcp.accept()).await.unwrap().unwrap();
    agent.write_all(b"hello").await.unwrap();
    let mut read = [0; 5];
    timeout(SOON, link.read_exact(&mut read)).await.unwrap().unwrap();
    assert_eq!(&read, b"hello");
    world.arm("fsn-1", json!({ "fault": "partition", "direction": "down" })).await;
    link.write_all(b"later").await.unwrap();
    let counted = async {
        while world.show("fsn-1").await["rules"][0]["hits"] != 1 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, counted).await.unwrap();
    world.clear("fsn-1").await;
    timeout(SOON, agent.read_exact(&mut read)).await.unwrap().unwrap();
    assert_eq!(&read, b"later");
    drop(agent);
    assert_eq!(timeout(SOON, link.read(&mut read)).await.unwrap().unwrap(), 0, "an end is passed on");
    world.proxy.stop().await;
}

#[tokio::test]
async fn the_control_api_names_what_is_wrong() {
    let world = World::new().await;
    let (status, body) = world.arm("fsn-9", json!({ "fault": "partition" })).await;
    assert_eq!((status, &body["error"]), (404, &json!("no node fsn-9")));
    let (status, body) = world.arm("fsn-1", json!({ "fault": "loss", "percent": 0 })).await;
    assert_eq!((status, &body["error"]), (422, &json!("`percent` must be 1 to 100")));
    let (_, armed) = world.arm("fsn-1", json!({ "fault": "loss", "percent": 1 })).await;
    let one = world.url(&format!("/nodes/fsn-1/faults/{}", armed["id"]));
    assert_eq!(world.http.delete(&one).send().await.unwrap().status(), 204);
    assert_eq!(world.http.delete(&one).send().await.unwrap().status(), 404);
    let twice = LaneConfig { name: "a".into(), listen: SocketAddr::from(([127, 0, 0, 1], 0)) };
    let config = LinkProxyConfig {
        control_listen: twice.listen,
        upstream: twice.listen,
        nodes: vec![twice.clone(), twice],
    };
    assert_eq!(config.check().unwrap_err(), "a stands twice");
    world.proxy.stop().await;
}
