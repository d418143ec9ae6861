//! Images that were decoded and cut, kept for the next turn, which sends them again. Under another root they
//! are decoded anew: how long an answer takes tells nobody what others have shown.

use std::collections::VecDeque;
use std::sync::Arc;

use undine_core::{CacheRoot, ImageKey};
use undine_image::PreparedImage;

use crate::media::tile_bytes;

/// The kept images, the one used longest ago first. A thousand at the most, for none has less than a few
/// hundred KiB.
pub(crate) struct PreparedImages {
    images: VecDeque<(Name, Arc<PreparedImage>)>,
    bytes: usize,
    bytes_max: usize,
}

/// An image, and who has shown it.
type Name = (CacheRoot, ImageKey);

impl PreparedImages {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { images: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn find(&mut self, root: &CacheRoot, key: ImageKey) -> Option<Arc<PreparedImage>> {
        let at = self.images.iter().rposition(|((other, name), _)| *name == key && other == root)?;
        let found = self.images.remove(at)?;
        let image = Arc::clone(&found.1);
        self.images.push_back(found);
        Some(image)
    }

    pub(crate) fn keep(&mut self, root: &CacheRoot, key: ImageKey, image: &Arc<PreparedImage>) {
        // Two requests may have decoded it at the same time.
        if self.find(root, key).is_some() {
            return;
        }
        self.bytes += size(image);
        self.images.push_back(((root.clone(), key), Arc::clone(image)));
        while self.bytes > self.bytes_max {
            let Some((_, oldest)) = self.images.pop_front() else { break };
            self.bytes -= size(&oldest);
        }
    }
}

fn size(image: &PreparedImage) -> usize {
    tile_bytes(image) + size_of::<(Name, PreparedImage)>()
}

#[cfg(test)]
mod tests {
    use undine_core::ImageSettings;
    use undine_image::{ImagePipeline, Picture};

    use super::*;

    #[test]
    fn what_was_not_used_for_long_is_dropped() {
        let pipeline = ImagePipeline::new(ImageSettings::default()).unwrap();
        let picture = Picture::new(256, 256, vec![0; 256 * 256 * 3]).unwrap();
        let image = Arc::new(pipeline.cut(&picture).unwrap());
        let key = |i: u8| ImageKey([i; 32]);
        let root = &CacheRoot::default();
        let mut kept = PreparedImages::new(3 * size(&image));
        for i in 0..3 {
            kept.keep(root, key(i), &image);
            kept.keep(root, key(i), &image);
        }
        assert!(kept.find(root, key(0)).is_some());
        kept.keep(root, key(3), &image);
        let found: Vec<bool> = (0..4).map(|i| kept.find(root, key(i)).is_some()).collect();
        assert_eq!(found, [true, false, true, true]);
        let other = CacheRoot { domain: 1, salt: None };
        assert!(kept.find(&other, key(0)).is_none(), "it was shown to somebody else");
        let mut none = PreparedImages::new(0);
        none.keep(root, key(0), &image);
        assert!(none.find(root, key(0)).is_none());
    }
}
