flash-logged-out = You are logged out.
flash-password-changed = Your password is changed, and all sessions have been ended. Log in with the new one.
flash-key-added = The key is in your account. New servers can use it.
flash-key-removed = The key is removed. Servers that have it keep it.
flash-token-revoked = The token is revoked and works no more.
