package api

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/api/gen"
	"github.com/eosc-siesta/siestad/internal/audit"
	"github.com/eosc-siesta/siestad/internal/authz"
	"github.com/eosc-siesta/siestad/internal/image"
)

func (h *handlers) CreateImage(ctx context.Context, r gen.CreateImageRequestObject) (gen.CreateImageResponseObject, error) {
	if err := h.allow(ctx, "image.create", "", authz.Object{Kind: "image"}, ""); err != nil {
		return nil, err
	}
	view, err := once(ctx, h.Server, 201, waits, func(tx pgx.Tx) (gen.Image, audit.ID, error) {
		img, id, err := h.cfg.Images.Create(ctx, tx, callOf(ctx).actor(), r.Body.Name)
		return imageView(img), id, err
	})
	if err != nil {
		return nil, err
	}
	return gen.CreateImage201JSONResponse{Body: view, Headers: gen.CreateImage201ResponseHeaders{
		Location: "/v1/images/" + view.ID, ETag: etag(view),
	}}, nil
}

func (h *handlers) ListImages(ctx context.Context, r gen.ListImagesRequestObject) (gen.ListImagesResponseObject, error) {
	if err := h.allow(ctx, "image.list", "", authz.Object{Kind: "images"}, ""); err != nil {
		return nil, err
	}
	state := pointer(r.Params.State)
	page := h.pager(ctx, r.Params.Limit, "images", state)
	after, err := page.after(r.Params.Cursor)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Images.Images(ctx, image.State(state), after, page.limit+1)
	if err != nil {
		return nil, err
	}
	items, next := cut(page, list, func(i image.Image) string { return i.ID }, imageView)
	return gen.ListImages200JSONResponse{Items: items, Next: next}, nil
}

func (h *handlers) GetImage(ctx context.Context, r gen.GetImageRequestObject) (gen.GetImageResponseObject, error) {
	img, err := h.image(ctx, "image.get", r.Image)
	if err != nil {
		return nil, err
	}
	view := imageView(img)
	return gen.GetImage200JSONResponse{Body: view, Headers: gen.GetImage200ResponseHeaders{ETag: etag(view)}}, nil
}

// UploadImageFile receives the body into a temporary file and stores it once it is whole. Whether it will be taken is asked
// before the body is read, and again in the transaction that takes it: meanwhile the image may have become another one.
func (h *handlers) UploadImageFile(ctx context.Context, r gen.UploadImageFileRequestObject) (gen.UploadImageFileResponseObject, error) {
	img, err := h.image(ctx, "image.upload", r.Image)
	if err != nil {
		return nil, err
	}
	c := callOf(ctx)
	if err := img.Accepts(c.actor()); err != nil {
		return nil, h.notTaken(ctx, img.ID, err)
	}
	if err := matches(r.Params.IfMatch, imageView(img)); err != nil {
		return nil, err
	}
	release, err := h.uploads.take(c.who.Subject)
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := c.longer(ctx, uploadIn)
	defer cancel()
	kind := image.Kind(r.File)
	upload, err := image.Receive(kind, patientReader{r.Body, c})
	if err != nil {
		return nil, err
	}
	defer upload.Close()
	updated, id, err := h.attach(ctx, img.ID, r.Params.IfMatch, kind, upload)
	if err != nil {
		return nil, h.notTaken(ctx, img.ID, err)
	}
	if err := h.await(ctx, id); err != nil {
		return nil, err
	}
	view := imageView(updated)
	return gen.UploadImageFile200JSONResponse{Body: view, Headers: gen.UploadImageFile200ResponseHeaders{ETag: etag(view)}}, nil
}

// attach stores an upload as a file of the image that was seen. One at a time: large files must not take all connections of the database.
func (h *handlers) attach(ctx context.Context, id string, seen *gen.IfMatch, kind image.Kind, upload *image.Upload) (image.Image, audit.ID, error) {
	select {
	case <-ctx.Done():
		return image.Image{}, 0, ctx.Err()
	case h.storing <- struct{}{}:
		defer func() { <-h.storing }()
	}
	return effect(ctx, h.Server, func(tx pgx.Tx) (image.Image, audit.ID, error) {
		who := callOf(ctx).actor()
		img, err := h.cfg.Images.Lock(ctx, tx, id)
		if err == nil {
			err = img.Accepts(who)
		}
		if err == nil {
			err = matches(seen, imageView(img))
		}
		if err != nil {
			return image.Image{}, 0, err
		}
		if err := h.cfg.Images.Store(ctx, tx, upload); err != nil {
			return image.Image{}, 0, err
		}
		return h.cfg.Images.Attach(ctx, tx, who, id, kind, upload.SHA256)
	})
}

// notTaken audits that a file was not taken because of whose image it is, or of its state, and returns the error as it is.
func (h *handlers) notTaken(ctx context.Context, id string, err error) error {
	if !errors.Is(err, image.ErrNotAuthor) && !errors.Is(err, image.ErrState) {
		return err
	}
	if e := h.refuse(ctx, "image.upload", authz.Object{Kind: "image", ID: id}, "", problemOf(err).slug); e != nil {
		return e
	}
	return err
}

func (h *handlers) RegisterImage(ctx context.Context, r gen.RegisterImageRequestObject) (gen.RegisterImageResponseObject, error) {
	view, err := h.judge(ctx, "image.register", r.Image, h.cfg.Images.Register)
	if err != nil {
		return nil, err
	}
	return gen.RegisterImage200JSONResponse{Body: view, Headers: gen.RegisterImage200ResponseHeaders{ETag: etag(view)}}, nil
}

func (h *handlers) ApproveImage(ctx context.Context, r gen.ApproveImageRequestObject) (gen.ApproveImageResponseObject, error) {
	view, err := h.judge(ctx, "image.approve", r.Image, h.cfg.Images.Approve)
	if err != nil {
		return nil, err
	}
	return gen.ApproveImage200JSONResponse{Body: view, Headers: gen.ApproveImage200ResponseHeaders{ETag: etag(view)}}, nil
}

func (h *handlers) WithdrawImage(ctx context.Context, r gen.WithdrawImageRequestObject) (gen.WithdrawImageResponseObject, error) {
	view, err := h.judge(ctx, "image.withdraw", r.Image, h.cfg.Images.Withdraw)
	if err != nil {
		return nil, err
	}
	return gen.WithdrawImage200JSONResponse{Body: view, Headers: gen.WithdrawImage200ResponseHeaders{ETag: etag(view)}}, nil
}

type judgement func(ctx context.Context, tx pgx.Tx, who audit.Actor, id string) (image.Image, audit.ID, error)

func (h *handlers) judge(ctx context.Context, op authz.Operation, id string, do judgement) (gen.Image, error) {
	img, err := h.image(ctx, op, id)
	if err != nil {
		return gen.Image{}, err
	}
	view, err := once(ctx, h.Server, 200, waits, func(tx pgx.Tx) (gen.Image, audit.ID, error) {
		judged, entry, err := do(ctx, tx, callOf(ctx).actor(), img.ID)
		return imageView(judged), entry, err
	})
	if err != nil {
		return gen.Image{}, h.refusedBy(ctx, err, op, authz.Object{Kind: "image", ID: img.ID}, "")
	}
	return view, nil
}

// image returns an image to which the caller may do the operation.
func (s *Server) image(ctx context.Context, op authz.Operation, id string) (image.Image, error) {
	img, err := s.cfg.Images.Image(ctx, id)
	if errors.Is(err, image.ErrNotFound) {
		return img, s.missing(ctx, op, "image", id)
	}
	if err != nil {
		return img, err
	}
	return img, s.allow(ctx, op, "image.get", authz.Object{Kind: "image", ID: img.ID, Authors: []string{img.CreatedBy, img.RegisteredBy}}, "")
}

func imageView(i image.Image) gen.Image {
	return gen.Image{
		ID: i.ID, Name: i.Name, State: gen.ImageState(i.State), Kernel: fileView(i.Kernel), Initrd: fileView(i.Initrd),
		Firmware: fileView(i.Firmware), CreatedBy: i.CreatedBy, RegisteredBy: optional(i.RegisteredBy),
		ApprovedBy: optional(i.ApprovedBy), WithdrawnBy: optional(i.WithdrawnBy), CreatedAt: i.CreatedAt.UTC(),
	}
}

func fileView(f image.File) *gen.ImageFile {
	if !f.Present() {
		return nil
	}
	return &gen.ImageFile{Sha256: hex.EncodeToString(f.SHA256[:]), Sha512: hex.EncodeToString(f.SHA512[:]), Size: f.Size}
}
