//! What is Istio's: who a workload is to istiod, and the dialect that sidecars speak.

pub(crate) mod names;

pub use crate::resource::InboundListener;
