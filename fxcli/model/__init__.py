"""Networks: the classifier, its first weights, its freezing, and the device it runs on."""
