-- An order placed from the page of one that ended unpaid. Owner: orders.
ALTER TABLE orders ADD COLUMN again_of TEXT;

CREATE INDEX orders_again_of ON orders (again_of);
