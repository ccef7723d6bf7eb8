package main

import (
	"time"

	"github.com/eosc-siesta/siestad/internal/attest"
)

// Config is the whole configuration: one YAML file, in which an unknown or doubled field is an error. Secrets are never
// written into it: where one is needed, a field names the file that holds it, readable by its owner alone.
type Config struct {
	// Installation names this siestad among others that may share a cloud project: eight characters of a-z and 0-9. It is
	// part of every name in the cloud and of every wrapped key, so it can never change.
	Installation string `yaml:"installation"`

	// Database is the Postgres that holds everything but the wrapped keys.
	Database DatabaseConfig `yaml:"database"`

	// Listen says where the service is offered. Guests have a listener of their own, so that a firewall can tell them from people.
	Listen ListenConfig `yaml:"listen"`

	// Issuers are the OpenID issuers whose access tokens are accepted, one or more.
	Issuers []IssuerConfig `yaml:"issuers"`

	// Keyring holds the epoch roots under which workspaces' keys are wrapped.
	Keyring KeyringConfig `yaml:"keyring"`

	// Log is the audit log's name and signing key.
	Log LogConfig `yaml:"log"`

	// Broker is the key broker's identity and the lives of its leases.
	Broker BrokerConfig `yaml:"broker"`

	// Tokens are the attestation results that the guests' door gives; left out, /kbs/v0 and attestations are refused.
	Tokens TokensConfig `yaml:"tokens"`

	// Attestation is what evidence must meet at every site. It narrows the gates that are compiled in; none can be opened.
	Attestation AttestationConfig `yaml:"attestation"`

	// Collateral says where the statements of processor vendors come from. Left out, nobody is asked and they are imported.
	Collateral CollateralConfig `yaml:"collateral"`

	// ReferenceValues are signed statements about the files and digests of guests (CoRIM): this installation's and others'.
	ReferenceValues ReferenceValuesConfig `yaml:"reference_values"`

	// Sites are the clouds on which workspaces can run.
	Sites []SiteConfig `yaml:"sites"`

	// LogLevel is debug, info, warn or error; info if left out.
	LogLevel string `yaml:"log_level"`

	// Development fields exist in development builds alone.
	development `yaml:",inline"`
}

// DatabaseConfig says how to reach Postgres.
type DatabaseConfig struct {
	// Connection is a libpq connection string or URL without a password.
	Connection string `yaml:"connection"`
	// PasswordFile holds the password; left out where Postgres asks for none (peer, certificate).
	PasswordFile string `yaml:"password_file"`
}

// ListenConfig has the addresses (host:port) of the three listeners.
type ListenConfig struct {
	// API is for portals and people.
	API string `yaml:"api"`
	// Guests is the guests' door: challenges, grants, events.
	Guests string `yaml:"guests"`
	// Metrics serves /metrics, and nothing else; left out, there are no metrics.
	Metrics string `yaml:"metrics"`
	// TLS is for the API; left out, a proxy in front of it must end TLS.
	TLS TLSConfig `yaml:"tls"`
	// GuestsTLS is for the guests' door. Guests trust the broker's key, not a certificate; it hides metadata from the network.
	GuestsTLS TLSConfig `yaml:"guests_tls"`
}

// TLSConfig is a certificate chain and its key, as PEM files. Both or neither.
type TLSConfig struct {
	Certificate string `yaml:"certificate"`
	Key         string `yaml:"key"`
}

// IssuerConfig is one OpenID issuer. Keycloak's claim layout is the reference.
type IssuerConfig struct {
	// URL is the issuer exactly as its tokens write it. Access tokens of people carry preferred_username (scope profile): one
	// without it counts as a service, which may not decide what takes a person.
	URL string `yaml:"url"`
	// Audience that a token must name.
	Audience string `yaml:"audience"`
	// Clients whose tokens are accepted (claim azp).
	Clients []string `yaml:"clients"`
}

// KeyringConfig has exactly one kind of keyring.
type KeyringConfig struct {
	// File is the path of a keyring file, made by `siestad keys init`.
	File string `yaml:"file"`
	// PKCS11 is a token that keeps the roots and can prove that one is destroyed; for builds with the tag pkcs11.
	PKCS11 PKCS11Config `yaml:"pkcs11"`
}

// PKCS11Config names a token, in which `siestad keys init-token` has made the first root.
type PKCS11Config struct {
	// Module is the path of the token's PKCS#11 library.
	Module string `yaml:"module"`
	// Token is the token's label.
	Token string `yaml:"token"`
	// PINFile holds the user's PIN.
	PINFile string `yaml:"pin_file"`
}

// LogConfig is the audit log's identity.
type LogConfig struct {
	// Origin is the log's name in its checkpoints, such as siesta.example.org/log. It can never change.
	Origin string `yaml:"origin"`
	// KeyFile holds the Ed25519 key (PKCS#8 PEM) that signs checkpoints.
	KeyFile string `yaml:"key_file"`
	// LastSeenFile keeps the newest checkpoint outside the database, so that a restored backup cannot fork the log unnoticed.
	LastSeenFile string `yaml:"last_seen_file"`
}

// BrokerConfig is the key broker's identity.
type BrokerConfig struct {
	// KeyFile holds the broker's Ed25519 key (PKCS#8 PEM). Its hash is on every guest's measured command line.
	KeyFile string `yaml:"key_file"`
	// Lease is how long a guest may hold its key without renewing; 5m if left out.
	Lease time.Duration `yaml:"lease"`
}

// TokensConfig is who signs attestation results. To turn the keys over: make a key and name it in NextKeyFile; once every
// instance runs so, move it to KeyFile and the old one to PreviousKeyFile; five minutes after that, the old one may go.
type TokensConfig struct {
	// Issuer stands in every token, such as https://siesta.example.org.
	Issuer string `yaml:"issuer"`
	// Audience stands in every token; siesta if left out.
	Audience string `yaml:"audience"`
	// KeyFile holds the P-256 key (PKCS#8 PEM) that signs tokens, made by `siestad keys init` or `siestad keys token`.
	KeyFile string `yaml:"key_file"`
	// NextKeyFile is the key that will sign next, published beforehand.
	NextKeyFile string `yaml:"next_key_file"`
	// PreviousKeyFile is the key that signed before, published until its last token is dead.
	PreviousKeyFile string `yaml:"previous_key_file"`
}

// AttestationConfig is what evidence must meet.
type AttestationConfig struct {
	// MinTCB is the floor for each product line (Milan, Genoa, Turin). A line that is not here is refused. Without a site with tee: sev-snp it may be left out.
	MinTCB map[string]attest.TCB `yaml:"min_tcb"`
	// RequireAliasCheck refuses firmware that has not looked for aliased memory (BadRAM).
	RequireAliasCheck bool `yaml:"require_alias_check"`
	// RevocationLists are AMD's CRLs (DER files). With none, nobody looks whether AMD has revoked an intermediate key.
	RevocationLists []string `yaml:"revocation_lists"`
	// FloorKeys are the public keys (Ed25519, PEM files) that sign floor files; with none, no floor file is accepted.
	FloorKeys []string `yaml:"floor_keys"`
	// TDX is what quotes of trust domains must meet besides.
	TDX TDXConfig `yaml:"tdx"`
}

// TDXConfig is what quotes must meet at every site.
type TDXConfig struct {
	// TCBStatuses are the words of Intel's that are admitted for a platform's patch level; [UpToDate] if left out. Revoked never is.
	TCBStatuses []string `yaml:"tcb_statuses"`
	// MinEvaluationNumber is the least number of Intel's data set (tcbEvaluationDataNumber) that a verdict may rest on; none if left out.
	MinEvaluationNumber int `yaml:"min_evaluation_number"`
}

// CollateralConfig is whom to ask for certificates of chips, revocation lists and TCB infos. Without an address nobody is
// asked; answers are proved under the compiled-in roots, whoever gives them. A release never waits for any of these.
type CollateralConfig struct {
	// Offline says that no vendor is to be asked, ever; objects come with `siestad collateral import`.
	Offline bool `yaml:"offline"`
	// KDSURL is AMD's key distribution service or a mirror of it, such as https://kdsintf.amd.com. With it, revocation lists are required at every site.
	KDSURL string `yaml:"kds_url"`
	// PCSURL is Intel's provisioning certification service or a mirror, such as https://api.trustedservices.intel.com.
	PCSURL string `yaml:"pcs_url"`
	// RootCRLURL is where the revocation list of Intel's root is, such as https://certificates.trustedservices.intel.com/IntelSGXRootCA.der.
	RootCRLURL string `yaml:"root_crl_url"`
	// Grace is how long after its end a revocation list of AMD's still counts, at most 24h; its use is audited. None if left out.
	Grace time.Duration `yaml:"grace"`
	// Budget is how many requests to vendors the evidence of one project may cause at once, 10 if left out; one more every 10 seconds.
	Budget int `yaml:"budget"`
}

// ReferenceValuesConfig says who signs reference values.
type ReferenceValuesConfig struct {
	// KeyFile holds the key (P-256, P-384 or Ed25519, PKCS#8 PEM) that signs what is exported, such as `siestad keys token` makes, and is the key of nothing else; left out, nothing is.
	KeyFile string `yaml:"key_file"`
	// EndorserKeys are the public keys (P-256, P-384 or Ed25519, PEM files) whose documents about files may be imported; with none, none may.
	// A document of a key that is taken out counts no more.
	EndorserKeys []string `yaml:"endorser_keys"`
}

// SiteConfig is one cloud.
type SiteConfig struct {
	// Name of the site in the API: lower-case letters, digits and hyphens.
	Name string `yaml:"name"`
	// Region of the catalog; left out where it has only one.
	Region string `yaml:"region"`
	// AllowedHosts are the hosts (or host:port) of Keystone and of every endpoint. Anything else in the catalog is refused.
	AllowedHosts []string `yaml:"allowed_hosts"`
	// Compute is the credential that makes servers, volumes and ports.
	Compute CredentialConfig `yaml:"compute"`
	// Keys is the credential for Barbican, in a project where nobody else can read.
	Keys CredentialConfig `yaml:"keys"`
	// Network is the name or id of the network that guests are put on. It must let them reach BrokerURL, and need let them reach nothing else.
	Network string `yaml:"network"`
	// Flavors that a workspace may ask for, by name.
	Flavors []string `yaml:"flavors"`
	// VolumeType for both volumes of a workspace: neither multi-attach nor encrypted by the cloud.
	VolumeType string `yaml:"volume_type"`
	// MaxDataGiB is the largest data volume; 1024 if left out.
	MaxDataGiB int `yaml:"max_data_gib"`
	// TEE is sev-snp or tdx. A field for the one is refused at a site of the other.
	TEE string `yaml:"tee"`
	// VCPUTypes are, for sev-snp, QEMU's names (EPYC-Milan, EPYC-Genoa …) of the processor models that the site's hosts give a guest.
	VCPUTypes []string `yaml:"vcpu_types"`
	// GuestFeatures are, for sev-snp, the SEV_FEATURES that the hosts' kernels set, 0x1 as a rule, 0x21 with debug swap.
	GuestFeatures []uint64 `yaml:"guest_features"`
	// Chips are, for sev-snp, the processors of the site's hosts.
	Chips []ChipConfig `yaml:"chips"`
	// Platforms are, for tdx, the machines of the site. Their evidence needs Intel's collateral: fetched with collateral.pcs_url, or imported.
	Platforms []PlatformConfig `yaml:"platforms"`
	// XFAM is, for tdx, the word of processor features that the hosts give a trust domain, such as 0x602e7; it follows from processor and kernel, and every quote shows it.
	XFAM uint64 `yaml:"xfam"`
	// XFAMMask says which bits of XFAM count; all of them if left out.
	XFAMMask uint64 `yaml:"xfam_mask"`
	// RTMR0 lists, for tdx, the values (96 hexadecimal digits) that RTMR0 may have: configuration, ACPI tables and boot variables of the virtual machine. Left out, any: like the ACPI tables on SEV-SNP, which nothing measures, these are the host's, and the guest must not trust them. A policy document can narrow it.
	RTMR0 []string `yaml:"rtmr0"`
	// BrokerURL is where the site's guests reach the guests' door: an address, since guests resolve no names, and short, since it is measured.
	BrokerURL string `yaml:"broker_url"`
}

// CredentialConfig is an application credential: an entry of a clouds.yaml, or a file of its own.
type CredentialConfig struct {
	CloudsFile string `yaml:"clouds_file"`
	Cloud      string `yaml:"cloud"`
	File       string `yaml:"file"`
}

// PlatformConfig is one registered machine with Intel's processors.
type PlatformConfig struct {
	// PPID names it in all its certificates, 32 hexadecimal digits.
	PPID string `yaml:"ppid"`
	// FMSPC is its kind, 12 hexadecimal digits; with it Intel's TCB info is fetched beforehand.
	FMSPC string `yaml:"fmspc"`
	// Host is the name of the machine, so that it can be quarantined by it.
	Host string `yaml:"host"`
}

// ChipConfig is one registered processor.
type ChipConfig struct {
	// ID is the CHIP_ID, 128 hexadecimal digits.
	ID string `yaml:"id"`
	// VCEKFile is its certificate (DER), for hosts that give guests none.
	VCEKFile string `yaml:"vcek_file"`
	// Product is its product line (Milan, Genoa, Turin), and TCB what it reports; with both, its certificate is fetched beforehand.
	Product string `yaml:"product"`
	// TCB is what the chip's firmware reports now. After an update the new certificate is fetched at the first report.
	TCB *attest.TCB `yaml:"tcb"`
	// Host is the name of the machine that it is in, so that a machine can be quarantined. Two chips may be in one.
	Host string `yaml:"host"`
}
