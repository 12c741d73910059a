//! Counts as OpenMetrics, over HTTP on loopback, where configured. Labels are devices and reasons: bounded, and never addresses.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::Service;

/// Requests at one time.
const AT_ONCE: usize = 16;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request.
const LONGEST: usize = 8192;

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfDevice {
    device: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct ForReason {
    reason: String,
}

/// Listens on loopback only.
pub(super) fn bind(address: SocketAddr) -> std::io::Result<std::net::TcpListener> {
    if !address.ip().is_loopback() {
        let message = format!("{address} is not on loopback; the metrics page is for this host only");
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, message));
    }
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

pub(super) async fn serve(service: Rc<Service>, listener: TcpListener) {
    let places = std::sync::Arc::new(Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = service.clone();
        tokio::task::spawn_local(async move {
            let _ = tokio::time::timeout(PATIENCE, answer(&service, stream)).await;
            drop(place);
        });
    }
}

async fn answer(service: &Service, mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= LONGEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let (status, kind, body) = if request.starts_with(b"GET /metrics ") {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ("200 OK", kind, page(service))
    } else {
        ("404 Not Found", "text/plain", "the page is /metrics\n".to_owned())
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn page(service: &Service) -> String {
    let statistics = service.statistics();
    let (clients, mappings, bytes, safe_state) = {
        let core = service.core();
        let (mut mappings, mut bytes) = (0, 0);
        for (_, _, b, m) in core.clients() {
            (mappings, bytes) = (mappings + m, bytes + b);
        }
        (core.clients().count() as u64 - 1, mappings, bytes, core.safe_state().is_some())
    };
    let mut registry = Registry::with_prefix("portcullis");
    let refused = Family::<OfDevice, Counter>::default();
    let requests = Family::<OfDevice, Counter>::default();
    let claimed = Family::<OfDevice, Gauge>::default();
    for device in &statistics.devices {
        let label = OfDevice { device: device.device.clone() };
        refused.get_or_create(&label).inc_by(device.faults);
        claimed.get_or_create(&label).set(i64::from(device.client.is_some()));
        if let Some(count) = device.requests {
            requests.get_or_create(&label).inc_by(count);
        }
    }
    let reasons = Family::<ForReason, Counter>::default();
    for reason in &statistics.reasons {
        reasons.get_or_create(&ForReason { reason: reason.reason.clone() }).inc_by(reason.count);
    }
    registry.register("device_refused", "Accesses of the device that were refused", refused);
    registry.register("device_requests", "Requests of the device that arrived", requests);
    registry.register("device_claimed", "Whether a client has the device", claimed);
    registry.register("refused", "Refused accesses by reason", reasons);
    let counter = |value: u64| {
        let counter = Counter::<u64>::default();
        counter.inc_by(value);
        counter
    };
    let gauge = |value: u64| {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge
    };
    registry.register("violations", "Refused accesses, all of them", counter(statistics.faults));
    registry.register("violations_lost", "Of those, how many have no record", counter(statistics.lost));
    let exact = gauge((!statistics.at_least).into());
    registry.register("violations_exact", "Whether there cannot have been more than were counted", exact);
    registry.register("calls", "Calls that were answered", counter(statistics.calls));
    registry.register("clients", "Clients", gauge(clients));
    registry.register("grants", "Grants", gauge(mappings));
    registry.register("granted_bytes", "Bytes granted", gauge(bytes));
    registry.register("safe_state", "Whether everything is blocked", gauge(safe_state.into()));
    let mut page = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut page, &registry);
    page
}
