package openstack

import (
	"context"
	"crypto/rand"
)

// checkIsolation asks whether a colleague could read our secrets. Under Barbican's older default policy any creator of the
// project may rewrite the ACL of another's private secret and then read it, so the probe tries exactly that, on a secret
// that protects nothing.
func (c *Client) checkIsolation(ctx context.Context, r *Report, other *Client) {
	const name = "key isolation"
	const fix = "keep the keys in a project where nobody but siestad has creator, member or admin, or have the site run Barbican with enforce_new_defaults and enforce_scope"
	if other == nil {
		r.failed(name, "no second credential is configured to try it with", fix+"; then configure an ordinary credential of the site for this check")
		return
	}
	found, err := c.probe(ctx, other)
	switch {
	case err != nil:
		r.failed(name, "it could not be tried: "+err.Error(), "the key credential must be able to store, restrict and delete a secret")
	case found != "":
		r.failed(name, found, fix)
	default:
		r.passed(name, "a second credential could neither read a private secret nor its ACL, nor change it")
	}
}

// probe says, in words, what the other credential could do; nothing if it could do nothing.
func (c *Client) probe(ctx context.Context, other *Client) (found string, err error) {
	who, err := other.Identity(ctx)
	if err != nil {
		return "", err
	}
	// One fixed name: what a crash leaves behind is found and removed by the next preflight.
	id, err := c.EnsureSecret(ctx, c.prefix+"preflight")
	if err != nil {
		return "", err
	}
	defer func() {
		// Also when ctx has ended; the call has its own deadline.
		if gone := c.DeleteSecret(context.WithoutCancel(ctx), id); gone != nil && err == nil {
			err = gone
		}
	}()
	payload := make([]byte, 32)
	_, _ = rand.Read(payload) // does not fail
	if err := c.PutSecretPayload(ctx, id, payload); err != nil && KindOf(err) != Conflict {
		return "", err
	}
	if err := c.SetSecretACL(ctx, id, nil); err != nil {
		return "", err
	}
	refused := func(err error) bool { return KindOf(err) == Forbidden || KindOf(err) == NotFound }
	if _, err := other.SecretPayload(ctx, id); err == nil {
		return "a second credential reads the payload of a private secret", nil
	} else if !refused(err) {
		return "", err
	}
	if err := other.SetSecretACL(ctx, id, []string{who.UserID}); err == nil {
		return "a second credential rewrites the ACL of a private secret, and so may read every key of the project", nil
	} else if !refused(err) {
		return "", err
	}
	if _, err := other.SecretACL(ctx, id); err == nil {
		return "a second credential sees the ACL of a private secret", nil
	} else if !refused(err) {
		return "", err
	}
	return "", nil
}
