package workspace

import (
	"context"
	"fmt"
	"strings"

	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

// KeyStores gives the broker the key managers of the sites.
func KeyStores(sites []Site) keybroker.Stores {
	stores := keyStores{}
	for _, s := range sites {
		stores[s.Name] = keyStore{s.Keys}
	}
	return stores
}

type keyStores map[string]keybroker.KeyStore

func (k keyStores) Store(site string) (keybroker.KeyStore, error) {
	store, ok := k[site]
	if !ok {
		return nil, fmt.Errorf("site %s is not configured", site)
	}
	return store, nil
}

// keyStore is Barbican as the broker sees it. A secret is private to its owner before it gets its payload: whoever else
// can read the project's secrets must not even collect ciphertext.
type keyStore struct{ client *openstack.Client }

func (k keyStore) EnsureSecret(ctx context.Context, name string) (string, error) {
	id, err := k.client.EnsureSecret(ctx, name)
	if err != nil {
		return "", err
	}
	if err := k.client.SetSecretACL(ctx, id, nil); err != nil {
		return "", err
	}
	return id, k.client.AddConsumer(ctx, id, consumer(name))
}

// consumer makes other tools of the site ask before they delete the secret. It names the workspace, the fourth part of the
// secret's name: Barbican holds 36 characters and answers 500 to more, and the whole name is longer.
func consumer(name string) openstack.Consumer {
	id := name
	if parts := strings.Split(name, "-"); len(parts) > 3 {
		id = parts[3]
	}
	return openstack.Consumer{Service: "siesta", ResourceType: "workspace", ResourceID: id}
}

func (k keyStore) PutPayload(ctx context.Context, id string, blob []byte) error {
	err := k.client.PutSecretPayload(ctx, id, blob)
	if openstack.KindOf(err) == openstack.Conflict {
		return keybroker.ErrHasPayload
	}
	return err
}

func (k keyStore) GetPayload(ctx context.Context, id string) ([]byte, error) {
	blob, err := k.client.SecretPayload(ctx, id)
	if absent(err) {
		return nil, keybroker.ErrNoPayload
	}
	return blob, err
}

func (k keyStore) DeleteSecret(ctx context.Context, id string) error {
	return k.client.DeleteSecret(ctx, id)
}
