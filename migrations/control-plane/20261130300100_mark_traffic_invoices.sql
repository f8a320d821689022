-- Whether an invoice charges traffic alone: that was used, and is owed after its server's end as well.
ALTER TABLE billing_invoices ADD COLUMN traffic_alone INTEGER NOT NULL DEFAULT 0;

-- Those of before are known by what the ledger put on them; where taxes came on top, the next reading says it.
UPDATE billing_invoices SET traffic_alone = 1
WHERE total_minor = (SELECT CAST(SUM(b.amount_minor) AS BIGINT) FROM traffic_bills b
                     WHERE b.invoice_id = billing_invoices.stripe_id);
