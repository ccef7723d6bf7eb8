package api

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/corim"
	"github.com/eosc-siesta/siestad/internal/image"
)

// ImportEndorsement stores a document of somebody who is trusted. That one is not, or not any more, is audited like a denial.
func (h *handlers) ImportEndorsement(ctx context.Context, r gen.ImportEndorsementRequestObject) (gen.ImportEndorsementResponseObject, error) {
	object := authz.Object{Kind: "endorsement"}
	if err := h.allow(ctx, "endorsement.import", "", object, ""); err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Endorsement, audit.ID, error) {
		e, id, err := h.cfg.Images.Import(ctx, tx, callOf(ctx).actor(), r.Body.Document)
		return endorsementView(e), id, err
	})
	if errors.Is(err, corim.ErrInvalid) {
		if err := h.refuse(ctx, "endorsement.import", object, "", "document"); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	return gen.ImportEndorsement201JSONResponse{Body: view, Headers: gen.ImportEndorsement201ResponseHeaders{Location: "/v1/endorsements/" + view.ID}}, nil
}

func (h *handlers) ListEndorsements(ctx context.Context, r gen.ListEndorsementsRequestObject) (gen.ListEndorsementsResponseObject, error) {
	if err := h.allow(ctx, "endorsement.list", "", authz.Object{Kind: "endorsements"}, ""); err != nil {
		return nil, err
	}
	page := h.pager(ctx, r.Params.Limit, "endorsements")
	before, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Images.Endorsements(ctx, before, page.limit+1)
	if err != nil {
		return nil, err
	}
	items, next := cut(page, list, func(e image.Endorsement) string { return e.ID }, endorsementView)
	return gen.ListEndorsements200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetEndorsement(ctx context.Context, r gen.GetEndorsementRequestObject) (gen.GetEndorsementResponseObject, error) {
	e, body, err := h.cfg.Images.Endorsement(ctx, r.Endorsement)
	if errors.Is(err, image.ErrNotFound) {
		return nil, h.missing(ctx, "endorsement.get", "endorsement", r.Endorsement)
	}
	if err != nil {
		return nil, err
	}
	if err := h.allow(ctx, "endorsement.get", "endorsement.get", authz.Object{Kind: "endorsement", ID: e.ID}, ""); err != nil {
		return nil, err
	}
	view := endorsementView(e)
	view.Document = &body
	return gen.GetEndorsement200JSONResponse(view), nil
}

func (h *handlers) ListImageEndorsements(ctx context.Context, r gen.ListImageEndorsementsRequestObject) (gen.ListImageEndorsementsResponseObject, error) {
	img, err := h.image(ctx, "image.get", r.Image)
	if err != nil {
		return nil, err
	}
	list, more, err := h.cfg.Images.Endorsed(ctx, img.ID)
	if err != nil {
		return nil, err
	}
	items := make([]gen.ImageEndorsement, len(list))
	for i, e := range list {
		items[i] = gen.ImageEndorsement{
			File: gen.ImageFileKind(e.File), Subject: e.Subject, Endorsement: e.Endorsement, CorimID: e.CorimID,
			Signer: e.Signer, SignerKey: e.SignerKey, NotAfter: utc(e.NotAfter),
		}
	}
	return gen.ListImageEndorsements200JSONResponse{Items: items, LeftOut: more}, nil
}

func endorsementView(e image.Endorsement) gen.Endorsement {
	return gen.Endorsement{
		ID: e.ID, Sha256: hex.EncodeToString(e.SHA256), CorimID: e.CorimID, Signer: e.Signer, SignerKey: e.SignerKey, Digests: e.Digests,
		NotAfter: utc(e.NotAfter), ImportedBy: e.ImportedBy, ImportedAt: e.ImportedAt.UTC(),
	}
}
