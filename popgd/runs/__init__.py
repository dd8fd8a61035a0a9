"""How a run is begun, watched, stored, resumed, shown and gathered."""
