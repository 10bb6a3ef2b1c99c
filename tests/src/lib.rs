//! The lab: network namespaces with real routers in which ETM is tried.
