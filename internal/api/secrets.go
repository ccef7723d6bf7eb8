package api

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/kbs"
	"github.com/eosc-siesta/siestad/internal/keybroker"
	"github.com/eosc-siesta/siestad/internal/permit"
	"github.com/eosc-siesta/siestad/internal/postgres"
)

// Secrets is what the API needs of *keybroker.Broker for the secrets of projects.
type Secrets interface {
	StageSecret(ctx context.Context, who audit.Actor, s keybroker.Secret, payload door.Secret) (keybroker.Secret, error)
	ConfirmSecret(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (keybroker.Secret, audit.ID, error)
	EndSecret(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (keybroker.Secret, audit.ID, error)
	Secret(ctx context.Context, id string) (keybroker.Secret, error)
	Secrets(ctx context.Context, project, after string, limit int) ([]keybroker.Secret, error)
}

// CreateSecret stages the secret, which takes calls to the key store, and then confirms it in the transaction that keeps
// the answer. A request that is repeated is answered before anything is staged; of two at once, one is confirmed and
// what the other staged is swept away.
func (h *handlers) CreateSecret(ctx context.Context, r gen.CreateSecretRequestObject) (gen.CreateSecretResponseObject, error) {
	payload := door.Secret(r.Body.Payload)
	defer payload.Clear()
	s := keybroker.Secret{
		Project: r.Body.Project, Dataset: pointer(r.Body.Dataset), Site: r.Body.Site,
		Resource: kbs.Resource{Repository: r.Body.Repository, Type: r.Body.Type, Tag: r.Body.Tag},
	}
	object, err := h.secretObject(ctx, s)
	if errors.Is(err, permit.ErrNotFound) {
		return nil, h.missing(ctx, "secret.create", "secret", "")
	}
	if err != nil {
		return nil, err
	}
	if err := h.allow(ctx, "secret.create", "project.get", object, s.Project); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(h.sites, func(site *siteState) bool { return site.Name == s.Site }) {
		return nil, kindInvalid.because("There is no site of that name.")
	}
	found, err := h.answered(ctx)
	if err != nil {
		return nil, err
	}
	if !found {
		staged, err := h.cfg.Secrets.StageSecret(ctx, callOf(ctx).actor(), s, payload)
		if err != nil {
			return nil, err
		}
		s.ID = staged.ID
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Secret, audit.ID, error) {
		confirmed, id, err := h.cfg.Secrets.ConfirmSecret(ctx, tx, callOf(ctx).actor(), s.ID)
		return secretView(confirmed), id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CreateSecret201JSONResponse{Body: view, Headers: gen.CreateSecret201ResponseHeaders{Location: "/v1/secrets/" + view.ID}}, nil
}

// answered looks whether the request's Idempotency-Key has been used, for what has work to do before its transaction.
func (s *Server) answered(ctx context.Context) (found bool, err error) {
	err = postgres.InTx(ctx, s.cfg.DB, func(tx pgx.Tx) (err error) {
		_, _, found, err = s.earlier(ctx, tx, callOf(ctx))
		return err
	})
	return found, err
}

func (h *handlers) ListSecrets(ctx context.Context, r gen.ListSecretsRequestObject) (gen.ListSecretsResponseObject, error) {
	if err := h.allow(ctx, "secret.list", "", authz.Object{Kind: "secrets"}, ""); err != nil {
		return nil, err
	}
	project := pointer(r.Params.Project)
	page := h.pager(ctx, r.Params.Limit, "secrets", project)
	after, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	items, next, err := sift(page, after, func(after string) ([]keybroker.Secret, error) {
		return h.cfg.Secrets.Secrets(ctx, project, after, page.limit+1)
	}, func(s keybroker.Secret) string { return s.ID }, func(s keybroker.Secret) (bool, error) {
		object, err := h.secretObject(ctx, s)
		return err == nil && h.may(ctx, "secret.get", object), err // shown to whom secret.get would show it
	}, secretView)
	if err != nil {
		return nil, err
	}
	return gen.ListSecrets200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetSecret(ctx context.Context, r gen.GetSecretRequestObject) (gen.GetSecretResponseObject, error) {
	s, err := h.secret(ctx, "secret.get", r.Secret)
	if err != nil {
		return nil, err
	}
	return gen.GetSecret200JSONResponse(secretView(s)), nil
}

func (h *handlers) EndSecret(ctx context.Context, r gen.EndSecretRequestObject) (gen.EndSecretResponseObject, error) {
	s, err := h.secret(ctx, "secret.end", r.Secret)
	if err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 200, waits, func(tx pgx.Tx) (gen.Secret, audit.ID, error) {
		ended, id, err := h.cfg.Secrets.EndSecret(ctx, tx, callOf(ctx).actor(), s.ID)
		return secretView(ended), id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.EndSecret200JSONResponse(view), nil
}

// secret returns a secret to which the caller may do the operation.
func (s *Server) secret(ctx context.Context, op authz.Operation, id string) (keybroker.Secret, error) {
	found, err := s.cfg.Secrets.Secret(ctx, id)
	if errors.Is(err, keybroker.ErrNotFound) {
		return found, s.missing(ctx, op, "secret", id)
	}
	if err != nil {
		return found, err
	}
	object, err := s.secretObject(ctx, found)
	if err != nil {
		return found, err
	}
	return found, s.allow(ctx, op, "secret.get", object, found.Project)
}

// secretObject is a secret as the policies see it: one for a dataset is in its custodian's hands, any other in those of
// whoever stored it.
func (s *Server) secretObject(ctx context.Context, secret keybroker.Secret) (authz.Object, error) {
	p, err := s.cfg.Permits.Project(ctx, secret.Project)
	if err != nil {
		return authz.Object{}, err
	}
	o := authz.Object{Kind: "secret", ID: secret.ID, Owner: secret.CreatedBy, Members: p.Members}
	if secret.Dataset != "" {
		d, err := s.cfg.Permits.Dataset(ctx, secret.Dataset)
		if err != nil {
			return authz.Object{}, err
		}
		o.Custodian = d.Custodian
	}
	return o, nil
}

func secretView(s keybroker.Secret) gen.Secret {
	v := gen.Secret{
		ID: s.ID, Project: s.Project, Dataset: optional(s.Dataset), Site: s.Site, Repository: s.Repository, Type: s.Type, Tag: s.Tag,
		State: gen.SecretState(s.State), CreatedBy: s.CreatedBy, CreatedAt: s.CreatedAt.UTC(), EndedBy: optional(s.EndedBy), Destruction: optional(s.Destruction),
	}
	if s.EndedBy != "" {
		at := s.EndedAt.UTC()
		v.EndedAt = &at
	}
	return v
}
