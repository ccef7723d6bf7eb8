package openstack

import (
	"cmp"
	"context"
	"crypto/subtle"
	"io"
	"net/url"
	"path"
	"slices"
	"strconv"
)

// SecretACL is who may read a secret besides its owner.
type SecretACL struct {
	ProjectAccess bool
	Users         []string
}

// Consumer registers who depends on a secret.
type Consumer struct {
	Service, ResourceType, ResourceID string
}

func (c Consumer) body() map[string]any {
	return map[string]any{"service": c.Service, "resource_type": c.ResourceType, "resource_id": c.ResourceID}
}

type secretWire struct {
	Ref          string            `json:"secret_ref"` // made of the operator's idea of Barbican's address: only its last segment is used
	Name         string            `json:"name"`
	Created      string            `json:"created"`
	ContentTypes map[string]string `json:"content_types"`
	id           string
}

const (
	secretPage     = 100 // Barbican's maximum
	maxSecretPages = 100
	// MaxSecretPayload is what Barbican's defaults store.
	MaxSecretPayload = 20000
)

// secretsLike lists the project's secrets whose names match an SQL LIKE pattern.
func (c *Client) secretsLike(ctx context.Context, op, pattern string) ([]secretWire, error) {
	var all []secretWire
	for page := range maxSecretPages {
		var doc struct{ Secrets []secretWire }
		query := url.Values{"name": {pattern}, "limit": {strconv.Itoa(secretPage)}, "offset": {strconv.Itoa(page * secretPage)}}
		if err := c.get(ctx, keyManager, op, pattern, query, &doc, "secrets"); err != nil {
			return nil, err
		}
		for _, s := range doc.Secrets {
			if s.id = path.Base(s.Ref); !uuidForm.MatchString(s.id) {
				return nil, unusable(keyManager, op, pattern, "a secret's reference does not end in a UUID")
			}
			all = append(all, s)
		}
		if len(doc.Secrets) < secretPage {
			return all, nil
		}
	}
	return nil, unusable(keyManager, op, pattern, "there are more secrets than can be")
}

// secretsByName lists the secrets of exactly that name, the one to keep first: with payload before without, then the
// oldest.
func (c *Client) secretsByName(ctx context.Context, op, name string) ([]secretWire, error) {
	found, err := c.secretsLike(ctx, op, name)
	if err != nil {
		return nil, err
	}
	found = slices.DeleteFunc(found, func(s secretWire) bool { return s.Name != name })
	slices.SortFunc(found, func(a, b secretWire) int {
		return cmp.Or(
			rank(len(b.ContentTypes) > 0)-rank(len(a.ContentTypes) > 0),
			cmp.Compare(a.Created, b.Created),
			cmp.Compare(a.id, b.id))
	})
	if len(found) > 1 && len(found[1].ContentTypes) > 0 {
		// Two keys for one disk: choosing wrongly would lose the data, so nobody chooses.
		return nil, unusable(keyManager, op, name, "two secrets of that name hold payloads")
	}
	return found, nil
}

// EnsureSecret finds or creates the record of a secret, without payload, and returns its id. Where several exist the one
// with a payload is kept; two with payloads are refused, never chosen between.
//
// Creation is two steps because the payload can be written once: a process that dies between the two leaves an empty
// record, which the next call finds and fills.
func (c *Client) EnsureSecret(ctx context.Context, name string) (id string, err error) {
	const op = "creating secret"
	if err := c.nameable(keyManager.name, op, name); err != nil {
		return "", err
	}
	found, err := c.secretsByName(ctx, op, name)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		posted := c.send(ctx, request{
			service: keyManager, op: op, object: name, method: "POST", path: []string{"secrets"},
			body: map[string]any{"name": name, "secret_type": "opaque"}, ok: []int{201},
		})
		if kind := KindOf(posted); kind != "" && kind != Ambiguous {
			return "", posted
		}
		if found, err = c.secretsByName(ctx, op, name); err != nil {
			return "", err
		}
		if len(found) == 0 {
			if posted == nil {
				posted = &Error{Kind: Ambiguous, Service: keyManager.name, Op: op, Object: name, Reason: "it is not to be found after its creation"}
			}
			return "", posted
		}
	}
	for _, loser := range found[1:] { // all empty, or the listing would have failed
		if err := c.remove(ctx, keyManager, "deleting duplicate secret", loser.id, "secrets", loser.id); err != nil {
			return "", err
		}
	}
	return found[0].id, nil
}

// SecretByName finds a secret by exact name; NotFound where there is none.
func (c *Client) SecretByName(ctx context.Context, name string) (id string, err error) {
	const op = "finding secret"
	if err := c.nameable(keyManager.name, op, name); err != nil {
		return "", err
	}
	found, err := c.secretsByName(ctx, op, name)
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", &Error{Kind: NotFound, Service: keyManager.name, Op: op, Object: name}
	}
	return found[0].id, nil
}

// PutSecretPayload writes the payload, once, and reads it back. Conflict: there is a payload already.
func (c *Client) PutSecretPayload(ctx context.Context, id string, payload []byte) error {
	const op = "writing secret"
	if err := identifier(keyManager, op, id); err != nil {
		return err
	}
	if len(payload) == 0 || len(payload) > MaxSecretPayload {
		return unusable(keyManager, op, id, "a payload has 1 to 20000 bytes")
	}
	put := c.send(ctx, request{
		service: keyManager, op: op, object: id, method: "PUT", path: []string{"secrets", id},
		raw: octetsOf(payload), ok: []int{204},
	})
	if kind := KindOf(put); kind != "" && kind != Ambiguous {
		return put
	}
	stored, err := c.SecretPayload(ctx, id)
	switch {
	case KindOf(err) == NotFound && put != nil:
		return put
	case err != nil:
		return err
	case subtle.ConstantTimeCompare(stored, payload) != 1:
		return unusable(keyManager, op, id, "what is read back is not what was written")
	}
	return nil
}

// SecretPayload reads the payload; NotFound where there is no secret, or none with a payload.
func (c *Client) SecretPayload(ctx context.Context, id string) ([]byte, error) {
	const op = "reading payload of secret"
	if err := identifier(keyManager, op, id); err != nil {
		return nil, err
	}
	r := request{
		service: keyManager, op: op, object: id, method: "GET", path: []string{"secrets", id, "payload"},
		accept: "application/octet-stream", ok: []int{200},
	}
	resp, err := c.open(ctx, r, true)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	payload, err := io.ReadAll(io.LimitReader(resp.Body, MaxSecretPayload+1))
	if err != nil {
		return nil, classify(r, err)
	}
	if len(payload) > MaxSecretPayload {
		return nil, unusable(keyManager, op, id, "the payload is longer than any that was written")
	}
	return payload, nil
}

// SetSecretACL makes the secret private to its owner and the given users, and reads that back.
func (c *Client) SetSecretACL(ctx context.Context, id string, users []string) error {
	const op = "setting ACL of secret"
	if err := identifier(keyManager, op, id); err != nil {
		return err
	}
	for _, u := range users {
		if !keystoneID.MatchString(u) {
			return unusable(keyManager, op, id, "a user's id is not one")
		}
	}
	body := map[string]any{"read": map[string]any{"users": append([]string{}, users...), "project-access": false}}
	err := c.send(ctx, request{
		service: keyManager, op: op, object: id, method: "PUT", path: []string{"secrets", id, "acl"},
		body: body, ok: []int{200}, repeatable: true,
	})
	if err != nil {
		return err
	}
	acl, err := c.SecretACL(ctx, id)
	if err != nil {
		return err
	}
	want := slices.Sorted(slices.Values(users))
	if acl.ProjectAccess || !slices.Equal(acl.Users, want) {
		return unusable(keyManager, op, id, "what is read back is not what was set")
	}
	return nil
}

// SecretACL reads who may read the secret; the users are in order.
func (c *Client) SecretACL(ctx context.Context, id string) (SecretACL, error) {
	const op = "reading ACL of secret"
	if err := identifier(keyManager, op, id); err != nil {
		return SecretACL{}, err
	}
	var doc struct {
		Read struct {
			ProjectAccess *bool    `json:"project-access"`
			Users         []string `json:"users"`
		} `json:"read"`
	}
	if err := c.get(ctx, keyManager, op, id, nil, &doc, "secrets", id, "acl"); err != nil {
		return SecretACL{}, err
	}
	// An ACL that was never set says nothing, and means that the project may read.
	acl := SecretACL{ProjectAccess: doc.Read.ProjectAccess == nil || *doc.Read.ProjectAccess}
	for _, u := range doc.Read.Users {
		acl.Users = append(acl.Users, clean(u, 64))
	}
	slices.Sort(acl.Users)
	return acl, nil
}

// AddConsumer registers a consumer; a second registration of the same is success.
func (c *Client) AddConsumer(ctx context.Context, id string, consumer Consumer) error {
	const op = "adding consumer of secret"
	if err := identifier(keyManager, op, id); err != nil {
		return err
	}
	return c.send(ctx, request{
		service: keyManager, op: op, object: id, method: "POST", path: []string{"secrets", id, "consumers"},
		body: consumer.body(), ok: []int{200, 201}, repeatable: true,
	})
}

// RemoveConsumer removes a consumer; absence is success.
func (c *Client) RemoveConsumer(ctx context.Context, id string, consumer Consumer) error {
	const op = "removing consumer of secret"
	if err := identifier(keyManager, op, id); err != nil {
		return err
	}
	err := c.send(ctx, request{
		service: keyManager, op: op, object: id, method: "DELETE", path: []string{"secrets", id, "consumers"},
		body: consumer.body(), ok: []int{200, 204},
	})
	if KindOf(err) == NotFound {
		return nil
	}
	return err
}

// DeleteSecret deletes a secret of this installation, consumers or not; absence is success. Barbican keeps the row for
// months: what makes the payload worthless is the destruction of the key that wraps it, elsewhere.
func (c *Client) DeleteSecret(ctx context.Context, id string) error {
	const op = "deleting secret"
	if err := identifier(keyManager, op, id); err != nil {
		return err
	}
	var s secretWire
	err := c.get(ctx, keyManager, op, id, nil, &s, "secrets", id)
	if ours, err := c.mayDelete(keyManager, op, id, s.Name, err); !ours {
		return err
	}
	r := request{service: keyManager, op: op, object: id, method: "DELETE", path: []string{"secrets", id}, ok: []int{204}}
	sc, err := c.service(ctx, keyManager)
	if err != nil {
		return err
	}
	if v, ok := parseMicroversion(sc.Microversion); ok && !v.less(microversion{1, 2}) {
		r.query = url.Values{"force": {"true"}} // from 1.2 on consumers stand in the way
	}
	err = c.send(ctx, r)
	if KindOf(err) == NotFound {
		return nil
	}
	return err
}
