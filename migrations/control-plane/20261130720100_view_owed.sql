-- What is owed: it was tried to collect it in vain, also where it was written off since; or nobody tries, since its customer is
-- to send the money, and Stripe's own word for the subscription says that it is late. Of bills beside the subscription that word
-- says nothing, and what was written off without a try is asked of nobody. An invoice whose subscription is not in the copy is
-- owed by its tries alone.
CREATE VIEW billing_owed AS
SELECT i.stripe_id, i.subscription_id, i.status, i.reason, i.currency, i.due_minor, i.tries, i.due_at, i.issued_at,
       i.traffic_alone, s.latest_invoice_id
FROM billing_invoices i LEFT JOIN billing_subscriptions s ON s.stripe_id = i.subscription_id
WHERE i.due_minor > 0
      AND ((i.status IN ('open', 'uncollectible') AND i.tries > 0)
           OR (i.status = 'open' AND COALESCE(i.reason, '') <> 'manual' AND i.traffic_alone = 0
               AND (s.status IN ('past_due', 'unpaid') OR (s.status = 'canceled' AND s.end_reason = 'payment_failed'))));
