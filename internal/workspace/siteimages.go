package workspace

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"

	"github.com/jackc/pgx/v5"

	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/flow"
	"github.com/eosc-siesta/siestad/internal/image"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

// ensureImages brings kernel and initrd to the site. The workspace's use of each is committed before Glance is asked, so
// that a deletion elsewhere that is about to remove the last use sees it, or is seen as the remover and waited for.
func (s *Service) ensureImages(ctx context.Context, site *Site, r *run) error {
	img, err := s.image(ctx, r)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		file   image.File
		format string
		id     *string
	}{{img.Kernel, "aki", &r.KernelID}, {img.Initrd, "ari", &r.InitrdID}} {
		removals, err := s.useImage(ctx, r, f.file.SHA256)
		if err != nil {
			return err
		}
		// The id that comes back may be another than the one proposed, should the site remember more than we do.
		at, err := site.Client.EnsureImage(ctx, openstack.ImageSpec{
			ID: s.imageID(f.file.SHA256, removals), Name: s.imageName(f.file.SHA256),
			SHA512: hex.EncodeToString(f.file.SHA512[:]), Size: f.file.Size, ContainerFormat: f.format, DiskFormat: f.format,
			Open: func(ctx context.Context) (io.ReadCloser, error) { return s.cfg.Images.Open(ctx, f.file.SHA256) },
		})
		if err != nil {
			return forward(site, err)
		}
		*f.id = at.ID
	}
	return nil
}

// imageID is the id to propose for an image that was removed from the site so often.
func (s *Service) imageID(digest [32]byte, removals int) string {
	if removals > 0 {
		digest = sha256.Sum256(door.LP([]byte("siesta/image-again/v1"), digest[:], []byte(strconv.Itoa(removals))))
	}
	return openstack.ImageID(s.cfg.Installation, digest)
}

func (s *Service) useImage(ctx context.Context, r *run, digest [32]byte) (removals int, err error) {
	err = flow.InTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		if err := anyRows(ctx, tx, "image-known", named{"site": r.Site, "sha256": digest[:]}); err != nil {
			return err
		}
		var remover *string
		if err := tx.QueryRow(ctx, queries["image-lock"], named{"site": r.Site, "sha256": digest[:]}).Scan(&remover, &removals); err != nil {
			return fmt.Errorf("locking an image of site %s: %w", r.Site, err)
		}
		if remover != nil {
			// A removal that is parked sends no more calls, and when it goes on it finds this use: what it left can be adopted,
			// once a call that it gave up waiting for has had the time of another attempt to come to its end at the site.
			parked, err := flow.IsParked(ctx, tx, subject(*remover), min(s.patience(), flow.DefaultAttempt))
			if err != nil {
				return err
			}
			if !parked {
				return flow.AgainBecause(pollCloud, problem(codeImage, "see the deletion that removes it through; then create the workspace again",
					"an older copy of the image is being removed from %s", r.Site))
			}
		}
		return anyRows(ctx, tx, "image-use", named{"site": r.Site, "sha256": digest[:], "workspace": r.Workspace})
	})
	return removals, err
}

// releaseImages ends the workspace's use of the site's images and deletes those that nobody uses any more. A crash after
// the first transaction leaves the workspace as the remover on record, and the next run goes on from there.
func (s *Service) releaseImages(ctx context.Context, site *Site, r *run) error {
	var list [][]byte
	err := flow.InTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		// The rows are locked first, in order: of two workspaces that go at the same time one sees the other's use.
		for _, q := range []string{"images-lock", "images-release", "images-doom"} {
			if err := anyRows(ctx, tx, q, named{"workspace": r.Workspace}); err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, queries["images-doomed"], named{"workspace": r.Workspace})
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowTo[[]byte])
		return err
	})
	if err != nil {
		return fmt.Errorf("releasing the images at %s: %w", r.Site, err)
	}
	for _, digest := range list {
		if err := s.removeImage(ctx, site, s.imageName([32]byte(digest))); err != nil {
			return err
		}
	}
	return flow.InTx(ctx, func(ctx context.Context, tx pgx.Tx) error {
		return anyRows(ctx, tx, "images-removed", named{"workspace": r.Workspace})
	})
}

// removeImage deletes every image of the name: the id under which it lies is Glance's business.
func (s *Service) removeImage(ctx context.Context, site *Site, name string) error {
	for {
		i, err := site.Client.ImageByName(ctx, name)
		id, err := s.orNamed(ctx, site, "image", name, i.ID, err)
		if absent(err) {
			return nil
		}
		if err == nil {
			err = site.Client.DeleteImage(ctx, id)
		}
		if openstack.KindOf(err) == openstack.Conflict {
			return flow.Again(pollCloud, "the image is busy at the site: "+err.Error())
		}
		if err != nil {
			return fmt.Errorf("deleting image %s: %w", name, err)
		}
	}
}
