package openstack

import "context"

// SecretACL is who may read a secret besides its owner.
type SecretACL struct {
	ProjectAccess bool
	Users         []string
}

// Consumer registers who depends on a secret.
type Consumer struct {
	Service, ResourceType, ResourceID string
}

// EnsureSecret finds or creates the record of a secret, without payload, and returns its id. Where several exist the one
// with a payload is kept; two with payloads are refused, never chosen between.
func (c *Client) EnsureSecret(ctx context.Context, name string) (id string, err error) {
	return "", errUnwritten
}

// SecretByName finds a secret by exact name; NotFound where there is none.
func (c *Client) SecretByName(ctx context.Context, name string) (id string, err error) {
	return "", errUnwritten
}

// PutSecretPayload writes the payload, once, and reads it back. Conflict: there is a payload already.
func (c *Client) PutSecretPayload(ctx context.Context, id string, payload []byte) error {
	return errUnwritten
}

// SecretPayload reads the payload; NotFound where there is no secret, or none with a payload.
func (c *Client) SecretPayload(ctx context.Context, id string) ([]byte, error) {
	return nil, errUnwritten
}

// SetSecretACL makes the secret private to its owner and the given users, and reads that back.
func (c *Client) SetSecretACL(ctx context.Context, id string, users []string) error {
	return errUnwritten
}

// SecretACL reads who may read the secret.
func (c *Client) SecretACL(ctx context.Context, id string) (SecretACL, error) {
	return SecretACL{}, errUnwritten
}

// AddConsumer registers a consumer; a second registration of the same is success.
func (c *Client) AddConsumer(ctx context.Context, id string, consumer Consumer) error {
	return errUnwritten
}

// RemoveConsumer removes a consumer; absence is success.
func (c *Client) RemoveConsumer(ctx context.Context, id string, consumer Consumer) error {
	return errUnwritten
}

// DeleteSecret deletes a secret of this installation, consumers or not; absence is success.
func (c *Client) DeleteSecret(ctx context.Context, id string) error { return errUnwritten }
