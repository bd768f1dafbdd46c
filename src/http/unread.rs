//! What a client goes on sending when it has its answer.
//!
//! actix reads the rest of a chunked body that nobody wants for as long as the client sends it, if the body was let go
//! before the answer was sent: a client could send for ever, without a credential. So it is held until the answer has
//! gone out; then actix closes the connection, as it does for a body of known length.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::HttpMessage;
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::PayloadError;
use actix_web::http::header;
use actix_web::web::Bytes;
use futures_core::Stream;

use super::connection::Patience;

/// The body of a request, if it has no known length; shared by the handler that may read it and the answer.
pub struct UnreadPayload(Option<Rc<RefCell<Payload>>>);

impl UnreadPayload {
    /// Takes the body of a request and leaves a way to it.
    pub fn share(request: &mut ServiceRequest) -> Self {
        if !request.headers().contains_key(header::TRANSFER_ENCODING) {
            return Self(None);
        }
        let payload = Rc::new(RefCell::new(request.take_payload()));
        let reader = Reader {
            payload: Rc::clone(&payload),
            patience: Patience::of(request.request()),
        };
        request.set_payload(Payload::Stream {
            payload: Box::pin(reader),
        });
        Self(Some(payload))
    }

    /// Holds it until the answer has gone out.
    pub fn hold(self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        match self.0 {
            Some(payload) => hold(response, payload),
            None => response,
        }
    }
}

/// Keeps something until an answer has gone out, or its reader has gone away.
pub fn hold(response: ServiceResponse<BoxBody>, held: impl Unpin + 'static) -> ServiceResponse<BoxBody> {
    response.map_body(|_, body| BoxBody::new(HoldingBody { body, _held: held }))
}

struct Reader {
    payload: Rc<RefCell<Payload>>,
    patience: Option<Patience>,
}

impl Stream for Reader {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Only the handler reads; the answer only holds.
        let read = Pin::new(&mut *self.payload.borrow_mut()).poll_next(context);
        if let (Poll::Pending, Some(patience)) = (&read, &self.patience) {
            patience.want_chunks();
        }
        read
    }
}

struct HoldingBody<Held> {
    body: BoxBody,
    _held: Held,
}

impl<Held: Unpin> MessageBody for HoldingBody<Held> {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.body.as_pin_mut().poll_next(context)
    }
}
