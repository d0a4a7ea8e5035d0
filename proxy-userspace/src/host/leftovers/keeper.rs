//! What keeps alive the connections that kube-proxy has translated, in whatever mode it was.
//!
//! The kernel translates as long as some chain of the type `nat` is there (`nf_nat_unregister_fn` in
//! `net/netfilter/nf_nat_core.c`), and tracks connections as long as some rule asks it to (`nf_ct_netns_put`). With the
//! last of them established connections break, although their entries are all there. Which rule is the last one is not
//! ours to guess: before any of kube-proxy's goes a chain comes into being that translates nothing.

use netlink_packet_core::DefaultNla;
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, Expressions, Hook, HookNumber, InetHookNumber, NfTablesMessage,
    RuleAttribute, RuleMessage, TableAttribute, TableMessage,
};

/// The table, in each family that needs it.
pub(super) const TABLE: &str = "kubeshunt";

const CHAIN: &str = "keep-connections";

/// `NF_IP_PRI_NAT_SRC`.
const SRCNAT: u32 = 100;

/// `NFTA_CT_DREG`, `NFTA_CT_KEY`, `NFT_REG_1` and `NFT_CT_STATE` of `include/uapi/linux/netfilter/nf_tables.h`.
const CT_REGISTER: (u16, u32) = (1, 1);
const CT_KEY: (u16, u32) = (2, 0);

/// The table, its chain, and a rule that looks at the state of a connection and does nothing with it.
pub(super) fn messages() -> [NfTablesMessage; 3] {
    let table = TableMessage { attributes: vec![TableAttribute::Name(TABLE.to_owned())] };
    let hook = vec![Hook::Number(HookNumber::Inet(InetHookNumber::PostRouting)), Hook::Priority(SRCNAT)];
    let chain = ChainMessage {
        attributes: vec![
            ChainAttribute::Table(TABLE.to_owned()),
            ChainAttribute::Name(CHAIN.to_owned()),
            ChainAttribute::Hook(hook),
            ChainAttribute::Type("nat".to_owned()),
        ],
    };
    let attributes =
        [CT_REGISTER, CT_KEY].map(|(kind, value)| DefaultNla::new(kind, value.to_be_bytes().to_vec()));
    let state = Expressions::Other { expression_type: "ct".to_owned(), attributes: attributes.into() };
    let rule = RuleMessage {
        attributes: vec![
            RuleAttribute::Table(TABLE.to_owned()),
            RuleAttribute::Chain(CHAIN.to_owned()),
            RuleAttribute::Expressions(vec![state.into()]),
        ],
    };
    [NfTablesMessage::NewTable(table), NfTablesMessage::NewChain(chain), NfTablesMessage::NewRule(rule)]
}
