//! How many requests of one client are answered at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::seats::Neighbour;
use crate::wire::error::{ApiError, ApiResult};

/// Who asks: the holder of a key where there are several, else a machine.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Client {
    /// By its place in the list of keys.
    Key(usize),
    Address(Neighbour),
}

/// The requests in flight of each client.
pub(crate) struct Clients {
    requests_max: Option<usize>,
    counts: Mutex<HashMap<Client, usize>>,
}

/// A request that is counted until this is dropped.
pub(crate) struct Counted {
    clients: Arc<Clients>,
    client: Client,
}

impl Clients {
    pub(crate) fn new(requests_max: Option<usize>) -> Arc<Self> {
        Arc::new(Self { requests_max, counts: Mutex::default() })
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Client, usize>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request, or refuses it.
    pub(crate) fn enter(self: &Arc<Self>, client: Option<Client>) -> ApiResult<Option<Counted>> {
        let (Some(client), Some(most)) = (client, self.requests_max) else { return Ok(None) };
        let mut counts = self.counts();
        let count = counts.entry(client).or_default();
        if *count >= most {
            return Err(ApiError::too_many_requests(most));
        }
        *count += 1;
        Ok(Some(Counted { clients: Arc::clone(self), client }))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.clients.counts();
        if let Some(count) = counts.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_so_many_at_once() {
        let clients = Clients::new(Some(2));
        let enter = |key| clients.enter(Some(Client::Key(key)));
        let (first, second) = (enter(0).unwrap(), enter(0).unwrap());
        assert_eq!(enter(0).err().unwrap().status, 429);
        assert!(enter(1).is_ok() && clients.enter(None).is_ok());
        drop(first);
        assert!(enter(0).is_ok());
        drop(second);
        assert!(clients.counts().is_empty());
        let open = Clients::new(None);
        assert!(open.enter(Some(Client::Key(0))).unwrap().is_none());
    }
}
