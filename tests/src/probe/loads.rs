//! The harness's handle of a probe, for large amounts: bytes, datagrams, connections.

use std::net::SocketAddr;

use anyhow::{Result, bail};

use super::Probe;
use super::protocol::{
    EchoDatagrams, Failure, HeldReport, Hold, Request, Response, Transfer, TransferReport, Trickle,
    TrickleReport,
};

impl Probe {
    /// Sends much and receives as much.
    ///
    /// # Errors
    /// When it cannot be connected, breaks, or takes too long.
    pub fn transfer(&self, transfer: &Transfer) -> Result<TransferReport> {
        let answer = self.request(&Request::Transfer(transfer.clone()))?;
        expect_answer!(answer, Response::Transferred(report) => report)
    }

    /// Has datagrams of random bytes echoed; says who sent each echo.
    ///
    /// # Errors
    /// When the probe is gone. Failures, wrong echoes among them, are in the list.
    pub fn echo_datagrams(&self, echo: &EchoDatagrams) -> Result<Vec<Result<SocketAddr, Failure>>> {
        let answer = self.request(&Request::EchoDatagrams(echo.clone()))?;
        expect_answer!(answer, Response::Echoed(list) => list)
    }

    /// Opens very many connections; they are held until [`Probe::close_held`], or the probe ends.
    ///
    /// # Errors
    /// When the probe is gone. Connections that failed are in the report.
    pub fn hold(&self, hold: &Hold) -> Result<(u64, HeldReport)> {
        let answer = self.request(&Request::Hold(hold.clone()))?;
        expect_answer!(answer, Response::Held { held, report } => (held, report))
    }

    /// Exchanges a byte on each of them.
    ///
    /// # Errors
    /// When there are none of that number.
    pub fn exchange_held(&self, held: u64) -> Result<HeldReport> {
        let answer = self.request(&Request::HeldExchange { held })?;
        expect_answer!(answer, Response::Held { report, .. } => report)
    }

    /// Closes them.
    ///
    /// # Errors
    /// When there are none of that number.
    pub fn close_held(&self, held: u64) -> Result<()> {
        expect_answer!(self.request(&Request::HeldClose { held })?, Response::Done => ())
    }

    /// Sends datagrams at a steady pace until [`Probe::stop_trickle`], or the probe ends.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn trickle(&self, trickle: &Trickle) -> Result<u64> {
        let answer = self.request(&Request::TrickleStart(trickle.clone()))?;
        expect_answer!(answer, Response::Trickle { trickle } => trickle)
    }

    /// What has become of them so far.
    ///
    /// # Errors
    /// When there are none of that number.
    pub fn peek_trickle(&self, trickle: u64) -> Result<TrickleReport> {
        expect_answer!(self.request(&Request::TricklePeek { trickle })?, Response::Trickled(report) => report)
    }

    /// Ends that.
    ///
    /// # Errors
    /// When there are none of that number.
    pub fn stop_trickle(&self, trickle: u64) -> Result<TrickleReport> {
        expect_answer!(self.request(&Request::TrickleStop { trickle })?, Response::Trickled(report) => report)
    }

    /// When datagrams of trickles came to its UDP servers.
    ///
    /// # Errors
    /// When the probe is gone.
    pub fn ticks(&self) -> Result<Vec<u64>> {
        expect_answer!(self.request(&Request::Ticks)?, Response::Ticks(ticks) => ticks)
    }
}
