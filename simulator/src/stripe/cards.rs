//! The test cards and the payment methods made of them.

use serde_json::{Value, json};

use super::{
    events,
    world::{World, text},
};

/// A test card, told by its last four digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Card {
    /// 4242 4242 4242 4242: always good.
    Good,
    /// 4000 0000 0000 0002: declined at once.
    Declined,
    /// 4000 0025 0000 3155: asks for a 3-D Secure step, then good, renewals included.
    Authenticates,
    /// 4000 0000 0000 0341: good at first, declined at every later charge.
    FailsLater,
}

impl Card {
    /// All of them with their number and what they do.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::Good, "4242 4242 4242 4242", "succeeds"),
        (Self::Declined, "4000 0000 0000 0002", "is declined"),
        (Self::Authenticates, "4000 0025 0000 3155", "asks for 3-D Secure, then succeeds"),
        (Self::FailsLater, "4000 0000 0000 0341", "succeeds now, is declined at renewal"),
    ];

    /// The card of this number, written with or without spaces, or by its last four digits alone.
    pub(crate) fn parse(number: &str) -> Option<Self> {
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        let known = |(_, full, _): &&(Self, &str, &str)| {
            let full = full.replace(' ', "");
            full == digits || (digits.len() == 4 && full.ends_with(&digits))
        };
        Self::ALL.iter().find(known).map(|(card, ..)| *card)
    }

    fn last4(self) -> &'static str {
        match self {
            Self::Good => "4242",
            Self::Declined => "0002",
            Self::Authenticates => "3155",
            Self::FailsLater => "0341",
        }
    }
}

/// Makes a card payment method of a customer and tells of it.
pub(crate) fn attach(
    world: &mut World,
    card: Card,
    customer: &str,
    name: Option<&str>,
    email: Option<&str>,
) -> String {
    let id = world.new_id("pm_1", 23);
    let last4 = card.last4();
    let method = json!({
        "id": id, "object": "payment_method", "allow_redisplay": "limited",
        "billing_details": billing_details(name, email),
        "card": {
            "brand": "visa", "checks": { "address_line1_check": null, "address_postal_code_check": null, "cvc_check": "pass" },
            "country": "US", "display_brand": "visa", "exp_month": 12, "exp_year": 2034, "fingerprint": format!("simulated{last4}"),
            "funding": "credit", "generated_from": null, "last4": last4, "networks": { "available": ["visa"], "preferred": null },
            "regulated_status": "unregulated", "three_d_secure_usage": { "supported": true }, "wallet": null,
        },
        "created": world.now, "customer": customer, "livemode": false, "metadata": {}, "type": "card",
    });
    world.put("payment_method", method.clone());
    events::emit(world, "payment_method.attached", &method, None);
    id
}

/// The `billing_details` of payment methods and charges.
pub(crate) fn billing_details(name: Option<&str>, email: Option<&str>) -> Value {
    json!({
        "address": { "city": null, "country": null, "line1": null, "line2": null, "postal_code": null, "state": null },
        "email": email, "name": name, "phone": null, "tax_id": null,
    })
}

/// The card behind a payment method; a method we do not know is good.
pub(crate) fn of_method(world: &World, method: &str) -> Card {
    let last4 = world
        .get("payment_method", method)
        .and_then(|method| method.get("card"))
        .map_or("", |card| text(card, "last4"));
    Card::parse(last4).unwrap_or(Card::Good)
}

#[cfg(test)]
mod tests {
    use super::Card;

    #[test]
    fn cards_are_known_by_number_and_by_last_four() {
        for (card, number, _) in Card::ALL {
            assert_eq!(Card::parse(number), Some(card));
            assert_eq!(Card::parse(card.last4()), Some(card));
        }
        assert_eq!(Card::parse("4111 1111 1111 1111"), None);
    }
}
