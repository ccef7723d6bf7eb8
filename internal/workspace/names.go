package workspace

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"strconv"

	"github.com/eosc-siesta/siestad/internal/door"
	"github.com/eosc-siesta/siestad/internal/openstack"
)

// Roles of a workspace's resources. Together with installation, workspace and generation they are its natural keys; the
// format never changes, for a resource under another name would be made anew and the old one forgotten.
const (
	roleKey    = "key"
	roleGroup  = "sg"
	rolePort   = "port"
	roleData   = "data"
	roleRoot   = "root"
	roleServer = "server"
)

// prefix begins the name of everything that a workspace has at a site.
func (s *Service) prefix(workspace string) string {
	return "siesta-v1-" + s.cfg.Installation + "-" + workspace + "-"
}

// name is the name of one resource, at most 63 characters of [a-z0-9-].
func (s *Service) name(workspace, role string, generation int) string {
	return s.prefix(workspace) + role + "-g" + strconv.Itoa(generation)
}

// imageName is the name of a kernel or initrd, shared by the workspaces of the installation.
func (s *Service) imageName(digest [32]byte) string {
	return "siesta-v1-" + s.cfg.Installation + "-img-" + hex.EncodeToString(digest[:16])
}

// mac is the port's address: locally administered, and unique on its network in Neutron.
func (s *Service) mac(workspace string, generation int) string {
	sum := sha256.Sum256(door.LP([]byte(s.cfg.Installation), []byte(workspace), []byte(strconv.Itoa(generation)), []byte(rolePort)))
	return net.HardwareAddr(append([]byte{0x02}, sum[:5]...)).String()
}

// markers are the metadata of everything that can carry some.
func (s *Service) markers(workspace, role string, generation int) map[string]string {
	return map[string]string{
		"siesta.installation": s.cfg.Installation, "siesta.ws": workspace, "siesta.role": role, "siesta.gen": strconv.Itoa(generation),
	}
}

// line is the kernel command line that binds a guest to its workspace, its generation and the broker. It is measured.
func (s *Service) line(site *Site, workspace string, generation int) (string, error) {
	line := fmt.Sprintf("console=ttyS0 panic=-1 siesta.ws=%s siesta.gen=%d siesta.broker=%s siesta.kb=%s",
		workspace, generation, site.BrokerURL, s.cfg.BrokerKey)
	if len(line) > openstack.MaxCommandLine {
		return "", fmt.Errorf("the measured command line has %d bytes, more than %d: the broker's URL at site %s is too long",
			len(line), openstack.MaxCommandLine, site.Name)
	}
	return line, nil
}
