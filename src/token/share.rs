//! What several processes share of one token: the seam behind which a store for a fleet stands. A
//! keeper asks it where it would otherwise make a token call, and nobody else does.

use futures_util::future::BoxFuture;

use super::{
    failure::Failure,
    model::{GuardKey, Issued, Token},
};

/// One keeper's part in what is shared. Its key knows the configuration that shapes the token; the
/// secret of the attempt comes with each call, as `key` (`None`: no secret is sent).
pub trait Share: Send + Sync {
    /// Takes a newer token than `held`, or leave to make the call that brings one.
    ///
    /// The error is a failure of the attempt: nothing may be had, and nothing may be minted.
    fn adopt_or_lease<'a>(
        &'a self,
        key: Option<&'a GuardKey>,
        held: Option<&'a Token>,
    ) -> BoxFuture<'a, Result<ShareStep, Failure>>;
    /// The call under `lease` is over. `issued`: what it brought; `None`: nothing, or it was not
    /// made.
    fn publish<'a>(
        &'a self,
        key: Option<&'a GuardKey>,
        lease: Lease,
        issued: Option<&'a Issued>,
    ) -> BoxFuture<'a, ()>;
    /// An API refused `token`: nobody is to adopt it.
    fn refused<'a>(&'a self, key: Option<&'a GuardKey>, token: &'a Token) -> BoxFuture<'a, ()>;
}

/// What a keeper does next, by what is shared.
pub enum ShareStep {
    /// Another process got this token. It is no token call of ours: not counted, and no pause
    /// follows from it.
    Adopt(Issued),
    /// No newer token is there, and this process may get one.
    Mint(Lease),
    /// Another process is getting one; ends when it is worth asking again.
    Wait(BoxFuture<'static, ()>),
}

/// Leave to make one token call.
#[derive(Debug, PartialEq, Eq)]
pub struct Lease {
    /// Greater with each lease of one token: what is published under an older one is not taken.
    pub fence: u64,
}

/// Each process for itself: every call may be made, and nobody hears of it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unshared;

impl Share for Unshared {
    fn adopt_or_lease<'a>(
        &'a self,
        _: Option<&'a GuardKey>,
        _: Option<&'a Token>,
    ) -> BoxFuture<'a, Result<ShareStep, Failure>> {
        Box::pin(std::future::ready(Ok(ShareStep::Mint(Lease { fence: 0 }))))
    }

    fn publish<'a>(
        &'a self,
        _: Option<&'a GuardKey>,
        _: Lease,
        _: Option<&'a Issued>,
    ) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    fn refused<'a>(&'a self, _: Option<&'a GuardKey>, _: &'a Token) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
}
