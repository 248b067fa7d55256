//! Where a layer's policy comes from: fixed when the layer is made, or carried by the request.
//!
//! A layer that stands alone in a [`ServiceBuilder`](https://docs.rs/tower) has one policy for all its requests:
//! [`Fixed`]. In the mesh, the route decides, and the request's own type carries what was decided: [`Carried`], with no
//! look-up in `http::Extensions`, which would cost a hash and a downcast per layer.

/// Finds the policy `P` of a request.
pub trait PolicyOf<R, P> {
    /// The policy of `request`; cheap to make, as every request pays for it.
    fn policy_of(&self, request: &mut R) -> P;
}

/// A request that carries a policy.
pub trait Carries<P> {
    /// What it carries. It is asked once, and so may give away what it would have to copy.
    fn carried(&mut self) -> P;
}

/// The same policy for every request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fixed<P>(pub P);

/// The policy that the request carries.
#[derive(Clone, Copy, Debug, Default)]
pub struct Carried;

impl<R, P: Clone> PolicyOf<R, P> for Fixed<P> {
    fn policy_of(&self, _: &mut R) -> P {
        self.0.clone()
    }
}

impl<R: Carries<P>, P> PolicyOf<R, P> for Carried {
    fn policy_of(&self, request: &mut R) -> P {
        request.carried()
    }
}
