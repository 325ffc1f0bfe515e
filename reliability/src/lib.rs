//! Evidence for what gpushare-core promises, as a stranger can gather it anew. RELIABILITY.md at the root
//! says which promises, and what came out.

mod plant;
pub mod power;
pub mod soak;
pub mod together;
pub mod transactions;

mod dice;
