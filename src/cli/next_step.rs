//! What to do about an error: the last words of its line, where there is something that helps most who meet it.

use std::io;

use monomorph::runtime::gguf::GgufError;
use monomorph::runtime::queue::QueueError;

/// The next step after `error`; none where its own words say all there is to say.
pub fn of(error: &anyhow::Error) -> Option<&'static str> {
    error.chain().find_map(|cause| {
        if let Some(error) = cause.downcast_ref::<GgufError>() {
            return of_gguf(error);
        }
        cause.downcast_ref::<QueueError>().and_then(of_queue)
    })
}

fn of_gguf(error: &GgufError) -> Option<&'static str> {
    match error {
        GgufError::Open { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            Some("tools/fetch-models.sh fetches models; without a file there is the built-in one")
        }
        GgufError::NotAFile { .. } => Some("the path of a .gguf file is needed"),
        GgufError::Truncated { .. } | GgufError::ArrayLength { .. } | GgufError::Outside { .. } => {
            Some("the file is probably not whole: fetch it again")
        }
        GgufError::Magic { .. } => Some("a model in another format must be converted to GGUF first"),
        _ => None,
    }
}

fn of_queue(error: &QueueError) -> Option<&'static str> {
    match error {
        QueueError::Unavailable { .. } => {
            Some("--device emulator needs no GPU, `monomorph doctor` tells what is missing")
        }
        QueueError::OutOfMemory { .. } => {
            Some("a smaller --context takes less, `monomorph inspect` tells how much")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_behind_what_was_told_around_it() {
        let missing = QueueError::Unavailable { device: "cuda:3".to_owned(), reason: "none".to_owned() };
        let step = of(&anyhow::Error::from(missing).context("--device cuda:3"));
        assert!(step.unwrap().contains("--device emulator"), "{step:?}");
        assert_eq!(of(&anyhow::anyhow!("sampling: top_p = 7 is not in 0 < p <= 1")), None);
    }
}
