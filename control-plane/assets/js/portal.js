// Custom elements of the portal.
