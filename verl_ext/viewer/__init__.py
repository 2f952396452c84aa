"""The token viewer: per-token exports of a run as one HTML page that needs no server and no network."""
