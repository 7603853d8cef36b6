package config

import (
	"fmt"
	"time"
)

// ProfileFAPI2 is the one security profile that there is.
const ProfileFAPI2 = "fapi2"

// fapiTolerance is what FAPI 2.0 section 5.3.2.1 item 13 wants taken of clocks that are ahead.
const fapiTolerance = 10 * time.Second

func (c *Config) validateProfile() error {
	switch {
	case c.Profile == "":
		return nil
	case c.Profile != ProfileFAPI2:
		return fmt.Errorf("profile: want %s or nothing, not %q; certificate profiles are under profiles", ProfileFAPI2, c.Profile)
	case *c.Tokens.ClockTolerance < fapiTolerance:
		return fmt.Errorf("tokens.clock_tolerance: profile %s wants at least %s, not %s", ProfileFAPI2, fapiTolerance, *c.Tokens.ClockTolerance)
	}
	for i, s := range c.Verify {
		if s.InsecureAllowBearer {
			return fmt.Errorf("verify[%d].insecure_allow_bearer: profile %s takes no token that is bound to nothing", i, ProfileFAPI2)
		}
	}
	return nil
}
