package api

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/permit"
)

func (h *handlers) CreateDataset(ctx context.Context, r gen.CreateDatasetRequestObject) (gen.CreateDatasetResponseObject, error) {
	if err := h.allow(ctx, "dataset.create", "", authz.Object{Kind: "dataset", ID: r.Body.ID}, ""); err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Dataset, audit.ID, error) {
		c := callOf(ctx)
		d, id, err := h.cfg.Permits.CreateDataset(ctx, tx, c.actor(), permit.Dataset{
			ID: r.Body.ID, Title: r.Body.Title, Version: r.Body.Version, Custodian: c.who.Subject,
		})
		return datasetView(d), id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CreateDataset201JSONResponse{Body: view, Headers: gen.CreateDataset201ResponseHeaders{Location: "/v1/datasets/" + view.ID}}, nil
}

func (h *handlers) ListDatasets(ctx context.Context, r gen.ListDatasetsRequestObject) (gen.ListDatasetsResponseObject, error) {
	if err := h.allow(ctx, "dataset.list", "", authz.Object{Kind: "datasets"}, ""); err != nil {
		return nil, err
	}
	page := h.pager(ctx, r.Params.Limit, "datasets")
	after, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Permits.Datasets(ctx, after, page.limit+1)
	if err != nil {
		return nil, err
	}
	items, next := cut(page, list, func(d permit.Dataset) string { return d.ID }, datasetView)
	return gen.ListDatasets200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetDataset(ctx context.Context, r gen.GetDatasetRequestObject) (gen.GetDatasetResponseObject, error) {
	d, err := h.cfg.Permits.Dataset(ctx, r.Dataset)
	if errors.Is(err, permit.ErrNotFound) {
		return nil, h.missing(ctx, "dataset.get", "dataset", r.Dataset)
	}
	if err != nil {
		return nil, err
	}
	if err := h.allow(ctx, "dataset.get", "dataset.get", authz.Object{Kind: "dataset", ID: d.ID, Custodian: d.Custodian}, ""); err != nil {
		return nil, err
	}
	return gen.GetDataset200JSONResponse(datasetView(d)), nil
}

func datasetView(d permit.Dataset) gen.Dataset {
	return gen.Dataset{ID: d.ID, Title: d.Title, Version: d.Version, Custodian: d.Custodian, CreatedAt: d.CreatedAt.UTC()}
}
