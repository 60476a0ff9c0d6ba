//! Which pod runs where: queue, snapshot, filters, scores, binding.
