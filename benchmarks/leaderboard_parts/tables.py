def write(store, names):
    pass
