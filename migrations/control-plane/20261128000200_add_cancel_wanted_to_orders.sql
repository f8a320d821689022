-- Who wanted an unpaid order cancelled: written before Stripe is asked to close the payment page, so that the order ends
-- as cancelled whoever hears first that the page is over. Owner: orders.
ALTER TABLE orders ADD COLUMN cancel_wanted_by TEXT;
